"""What engines do alike for mixtures: which policy is in which slot, and what the two models' logits become.

An engine holds one policy, or two that it can mix: one in the slot `POLICY` and one in the slot `REFERENCE`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING

import numpy as np

from rlhf_flow.engine.loaded_policy import LoadedPolicy
from rlhf_flow.types import Mixture, Policy
from rlhf_flow.weights.source import Adapter

if TYPE_CHECKING:
    from torch import Tensor

NETWORKS = ("policy", "reference")  # by slot: in an engine of two models their weights' names begin so
POLICY, REFERENCE = 0, 1  # a slot is also the weight at which a mixture is that policy alone

Put = Callable[[int, Iterator[tuple[str, "Tensor"]]], None]  # replaces the weights in a slot, and takes an adapter away
Lay = Callable[[int, Adapter | None], None]  # lays an adapter beside the weights in a slot; None: takes it away
Measure = Callable[[int, Sequence[int], int], np.ndarray]  # (slot, tokens, first) -> log-probs of tokens[first:]


class PolicySlots:
    """The policies inside one engine."""

    def __init__(self, holdings: Sequence[LoadedPolicy], *, put: Put, measure: Measure, lay: Lay | None = None) -> None:
        self._holdings = holdings  # one, or two where the engine mixes
        self._put = put
        self._measure = measure
        self._lay = lay  # None: adapters come as whole weights

    def hold(self, asked: Policy | Mixture) -> float:
        """Hold what `asked` is made of; return the weight of the reference slot that gives exactly `asked`.

        One policy is drawn from alone, at the speed of one model, wherever it is held already. Raises ValueError for a
        mixture that cannot be drawn from, and whatever `LoadedPolicy.fetch` raises.
        """
        wanted = self._simplest(asked)
        if isinstance(wanted, Mixture):
            self._fetch(POLICY, wanted.policy)
            self._fetch(REFERENCE, wanted.reference)
            return wanted.weight
        held = [slot for slot, holding in enumerate(self._holdings) if holding.holds(wanted)]
        slot = held[0] if held else POLICY
        self._fetch(slot, wanted)
        return float(slot)

    def has(self, policy: Policy) -> bool:
        """Whether its weights are here, proven or not."""
        return any(holding.has(policy) for holding in self._holdings)

    def take(self, policy: Policy) -> None:
        """Load its weights now; `hold` proves them. Raises as `hold`."""
        if not self.has(policy):
            self._holdings[POLICY].take(policy, lambda tensors: self._put(POLICY, tensors))

    def _simplest(self, asked: Policy | Mixture) -> Policy | Mixture:
        """`asked`, or the one policy that it comes down to."""
        if isinstance(asked, Policy):
            return asked
        if len(self._holdings) == 1:
            raise ValueError(
                f"a mixture of {_name(asked.policy)} and {_name(asked.reference)} was asked of an engine that was "
                "opened for one policy at a time. Open it with mixes=True."
            )
        if not 0 <= asked.weight <= 1:
            raise ValueError(f"the weight of a mixture must be in [0, 1], got {asked.weight}")
        if asked.weight == 0 or asked.policy.sha256 == asked.reference.sha256:
            return asked.policy
        return asked.reference if asked.weight == 1 else asked

    def _fetch(self, slot: int, policy: Policy) -> None:
        lay = self._lay
        self._holdings[slot].fetch(
            policy,
            put=lambda tensors: self._put(slot, tensors),
            measure=lambda tokens, first: self._measure(slot, tokens, first),
            lay=None if lay is None else lambda adapter: lay(slot, adapter),
        )


def blend(logits: Sequence[Tensor], weight: float) -> Tensor:
    """float32 logits [R, V] of the mixture, from those of the policy and of the reference; of one alone, as they are.

    The constants that turn logits into log-probs only move the sum, which the softmax takes out again. Not
    `torch.lerp`: where both models exclude a token (-inf) its difference would be NaN.
    """
    if len(logits) == 1:
        return logits[0]
    policy, reference = logits
    return policy.float() * (1 - weight) + reference.float() * weight


def _name(policy: Policy) -> str:
    return f"{policy.name!r} of round {policy.round}"
