"""What of a model is learned and published: all of its weights, or less (`rlhf_flow.learner.lora_model`)."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Protocol

import torch
from torch import Tensor
from transformers import PreTrainedModel

from rlhf_flow.learner.hf_checkpoint import write_checkpoint
from rlhf_flow.learner.readout import Readout
from rlhf_flow.specs import Model
from rlhf_flow.types import Policy
from rlhf_flow.weights.buckets import Bucket, Index
from rlhf_flow.weights.layout import Layout
from rlhf_flow.weights.source import Weights


class Trainable(Protocol):
    @property
    def base(self) -> str | None:
        """The hash of weights that stay as they are, below those that are trained; None: there are none."""
        ...

    @property
    def layout(self) -> Layout | None:
        """How a checkpoint stores what is published; None: as it is published."""
        ...

    def names(self) -> dict[str, list[str]]:
        """For each trained parameter all names under which it is published: tied weights have several."""
        ...

    def buffers(self) -> dict[str, Tensor]:
        """What is published besides parameters."""
        ...

    def of(self, policy: Policy) -> Weights:
        """What of a policy is published. Raises ValueError where it is of another kind."""
        ...

    def at_hand(self, policy: Policy) -> AbstractContextManager[None] | None:
        """A block in which the forward pass reads `policy` though nothing is written; None: its tensors must be."""
        ...

    def sha256(self, tensors_sha256: str) -> str:
        """The identity of a policy, from the fingerprint of what of it is published."""
        ...

    def weights(self, tensors: Weights) -> Weights:
        """Those of a policy, from what of it is published."""
        ...

    def average(self, terms: Sequence[tuple[Policy, float]], dtype: torch.dtype) -> Weights:
        """The sum of policies, each times its coefficient. Raises ValueError where it is not of this kind."""
        ...

    def save(self, folder: Path, groups: Sequence[Index], buckets: Iterator[Bucket]) -> None:
        """Write `buckets`, of which each holds one of the `groups`, for others to load."""
        ...


@dataclass(frozen=True)
class FullModel:
    """All weights of the model."""

    model: Model
    lm: PreTrainedModel
    reading: Readout

    @property
    def base(self) -> None:
        return None

    @cached_property
    def layout(self) -> Layout:
        return Layout.of(self.lm)

    def names(self) -> dict[str, list[str]]:
        first = {id(parameter): name for name, parameter in self.lm.named_parameters()}
        names: dict[str, list[str]] = {name: [] for name in first.values()}
        for name, tensor in self.lm.state_dict(keep_vars=True).items():
            if id(tensor) in first:
                names[first[id(tensor)]].append(name)
        return names

    def buffers(self) -> dict[str, Tensor]:
        parameters = {id(parameter) for parameter in self.lm.parameters()}
        return {
            name: tensor for name, tensor in self.lm.state_dict(keep_vars=True).items() if id(tensor) not in parameters
        }

    def of(self, policy: Policy) -> Weights:
        return self.reading.weights(policy.weights)

    def at_hand(self, policy: Policy) -> None:
        return None

    def sha256(self, tensors_sha256: str) -> str:
        return tensors_sha256

    def weights(self, tensors: Weights) -> Weights:
        return tensors

    def average(self, terms: Sequence[tuple[Policy, float]], dtype: torch.dtype) -> Weights:
        return Average(tuple((self.of(policy), coefficient) for policy, coefficient in terms), dtype)

    def save(self, folder: Path, groups: Sequence[Index], buckets: Iterator[Bucket]) -> None:
        write_checkpoint(folder, self.model, self.lm, groups, buckets)


@dataclass(frozen=True)
class Average:
    """The sum of weights, each times its coefficient, computed where it is asked for."""

    terms: tuple[tuple[Weights, float], ...]
    dtype: torch.dtype

    def index(self) -> Index:
        dtype = str(self.dtype).removeprefix("torch.")
        return tuple(
            replace(entry, dtype=dtype) if entry.torch_dtype.is_floating_point else entry
            for entry in self.terms[-1][0].index()
        )

    def stream(self) -> Iterator[tuple[str, Tensor]]:
        """In float32; what is no floating-point number is of the last of them."""
        for parts in zip(*(weights.stream() for weights, _ in self.terms), strict=True):
            name, tensor = parts[-1]
            if tensor.is_floating_point():
                total = self.terms[0][1] * parts[0][1].float()
                for (_, part), (_, coefficient) in zip(parts[1:], self.terms[1:], strict=True):
                    total += coefficient * part.float()
                tensor = total.to(self.dtype)
            yield name, tensor

    def load(self) -> dict[str, Tensor]:
        return dict(self.stream())
