"""Which weights of a model are trained and published: all of them, or an adapter (`rlhf_flow.learner.lora_model`)."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Protocol

import torch
from torch import Tensor
from transformers import PreTrainedModel

from rlhf_flow.learner.backend import Part
from rlhf_flow.learner.hf_checkpoint import write_settings, write_weights
from rlhf_flow.learner.readout import Readout
from rlhf_flow.specs import Model
from rlhf_flow.types import Policy
from rlhf_flow.weights.buckets import Index, dtype_name, pack, reader
from rlhf_flow.weights.layout import Layout
from rlhf_flow.weights.source import Weights


class Trainable(Protocol):
    @property
    def base(self) -> str | None:
        """The hash of the frozen base of an adapter; None: all weights are trained."""
        ...

    @property
    def layout(self) -> Layout | None:
        """How a checkpoint stores the published tensors; None: under the same names."""
        ...

    def names(self) -> dict[str, list[str]]:
        """Trained parameter -> its published names; tied weights have several."""
        ...

    def buffers(self) -> dict[str, Tensor]:
        """Published tensors that are not parameters."""
        ...

    def fill(self, parts: Mapping[str, Part]) -> None:
        """Load this rank's parts of the frozen parameters, by name. Raises ValueError if one has no weights."""
        ...

    def of(self, policy: Policy) -> Weights:
        """The published tensors of a policy. Raises ValueError if it is of another kind."""
        ...

    def at_hand(self, policy: Policy) -> AbstractContextManager[None] | None:
        """A context in which forward passes use `policy` without loading it; None if it must be loaded."""
        ...

    def sha256(self, tensors_sha256: str) -> str:
        """The identity of a policy, from the fingerprint of its published tensors."""
        ...

    def weights(self, tensors: Weights) -> Weights:
        """The weights of a policy, from its published tensors."""
        ...

    def average(self, terms: Sequence[tuple[Policy, float]], dtype: torch.dtype) -> Weights:
        """The weighted sum of policies. Raises ValueError if it is not of this kind."""
        ...

    def save(
        self, folder: Path, index: Index, tensors: Iterator[tuple[str, Tensor]], *, bucket: int, rank: int, ranks: int
    ) -> dict[str, str]:
        """Write this rank's share of a checkpoint of the published `tensors`, sorted by name.

        `bucket`: bytes of a weight file, at most. Returns the sha256 of the weight files, by path in the folder.
        """
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
        state = self.lm.state_dict(keep_vars=True)
        return {name: tensor for name, tensor in state.items() if id(tensor) not in parameters}

    def fill(self, parts: Mapping[str, Part]) -> None:
        assert not parts, "all parameters are trained"

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

    def save(
        self, folder: Path, index: Index, tensors: Iterator[tuple[str, Tensor]], *, bucket: int, rank: int, ranks: int
    ) -> dict[str, str]:
        groups = pack(self.layout.stored(index), bucket)
        hashes = write_weights(folder, groups, reader(self.layout.convert(tensors)), rank=rank, ranks=ranks)
        if rank == 0:
            floating = (entry.dtype for entry in index if entry.torch_dtype.is_floating_point)
            write_settings(folder, self.model, self.lm, next(floating, self.model.dtype))
        return hashes


@dataclass(frozen=True)
class Average:
    """The weighted sum of weights, computed when streamed."""

    terms: tuple[tuple[Weights, float], ...]
    dtype: torch.dtype

    def index(self) -> Index:
        dtype = dtype_name(self.dtype)
        return tuple(
            replace(entry, dtype=dtype) if entry.torch_dtype.is_floating_point else entry
            for entry in self.terms[-1][0].index()
        )

    def stream(self) -> Iterator[tuple[str, Tensor]]:
        """Summed in float32. Integer tensors are those of the last term."""
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
