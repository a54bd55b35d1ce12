"""Geometric mixtures of two policies: which policy is in which slot of an engine, and the mixture's logits.

An engine holds one policy, or two that it can mix, in the slots `POLICY` and `REFERENCE`.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, TypeAlias

import numpy as np

from rlhf_flow.engine.loaded_policy import LoadedPolicy
from rlhf_flow.types import Mixture, Policy
from rlhf_flow.weights.source import Adapter

if TYPE_CHECKING:
    from torch import Tensor

NETWORKS = ("policy", "reference")  # by slot; the prefixes of weight names in an engine of two models
POLICY, REFERENCE = 0, 1  # the slot number is also the mixture weight that selects this policy alone

# As in `loaded_policy`, with the slot as the first argument.
LoadWeights: TypeAlias = Callable[[int, Iterator[tuple[str, "Tensor"]]], None]
SetAdapter: TypeAlias = Callable[[int, Adapter | None], None]
Measure: TypeAlias = Callable[[int, Sequence[int], int], np.ndarray]


class PolicySlots:
    """The one or two policies in an engine."""

    def __init__(
        self,
        loaded: Sequence[LoadedPolicy],
        *,
        load: LoadWeights,
        measure: Measure,
        set_adapter: SetAdapter | None = None,  # None: adapters are loaded as whole weights
    ) -> None:
        self._loaded = loaded
        self._load = load
        self._measure = measure
        self._set_adapter = set_adapter

    def hold(self, asked: Policy | Mixture) -> float:
        """Load what `asked` needs and return the weight of the reference slot that gives exactly `asked`.

        A single policy is used in the slot that holds it, at the speed of one model. Raises ValueError if the mixture
        is not possible, and what `LoadedPolicy.fetch` raises.
        """
        wanted = self._simplest(asked)
        if isinstance(wanted, Mixture):
            self._fetch(POLICY, wanted.policy)
            self._fetch(REFERENCE, wanted.reference)
            return wanted.weight
        held = [slot for slot, loaded in enumerate(self._loaded) if loaded.holds(wanted)]
        slot = held[0] if held else POLICY
        self._fetch(slot, wanted)
        return float(slot)

    @contextmanager
    def receiving(self) -> Iterator[None]:
        """The block replaces the weights in the slot of the policy without `hold`. Raises what `receiving` raises."""
        with self._loaded[POLICY].receiving():
            yield

    def received(self, sha256: str, round: int) -> None:
        self._loaded[POLICY].received(sha256, round)

    def forget(self) -> None:
        """The weights in all slots are lost."""
        for loaded in self._loaded:
            loaded.forget()

    def _simplest(self, asked: Policy | Mixture) -> Policy | Mixture:
        """`asked`, or the single policy that it is equal to."""
        if isinstance(asked, Policy):
            return asked
        if len(self._loaded) == 1:
            raise ValueError(
                f"a mixture of {_name(asked.policy)} and {_name(asked.reference)} was asked of an engine that was "
                "opened for one policy at a time. Fix: open it with mixes=True."
            )
        if not -1 <= asked.weight <= 1:
            raise ValueError(f"the weight of a mixture must be in [-1, 1], got {asked.weight}")
        if asked.weight == 0 or asked.policy.sha256 == asked.reference.sha256:
            return asked.policy
        return asked.reference if asked.weight == 1 else asked

    def _fetch(self, slot: int, policy: Policy) -> None:
        set_adapter = self._set_adapter
        self._loaded[slot].fetch(
            policy,
            load=lambda tensors: self._load(slot, tensors),
            measure=lambda tokens, first: self._measure(slot, tokens, first),
            set_adapter=None if set_adapter is None else lambda adapter: set_adapter(slot, adapter),
        )


def blend(logits: Sequence[Tensor], weight: float) -> Tensor:
    """float32 logits [R, V] of the mixture of policy and reference; a single policy's logits are returned as they are.

    Unnormalised logits suffice, because the softmax removes constants. Not `torch.lerp`, which gives NaN if both models
    exclude a token (-inf). With a negative weight, a token is excluded if either model excludes it.
    """
    if len(logits) == 1:
        return logits[0]
    policy, reference = (each.float() for each in logits)
    mixed = policy * (1 - weight) + reference * weight
    return mixed if weight >= 0 else mixed.masked_fill(policy.isneginf() | reference.isneginf(), -math.inf)


def _name(policy: Policy) -> str:
    return f"{policy.name!r} of round {policy.round}"
