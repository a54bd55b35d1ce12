"""Engines to which prompts are added while they generate."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Protocol, runtime_checkable

from rlhf_flow.types import Mixture, Policy, Prompt, Rollouts, SamplingParams


class Take(Protocol):
    def __call__(self, *, wait: bool) -> Sequence[Prompt] | None:
        """Further prompts, maybe none yet; None: no more will come. `wait`: until there are some."""
        ...


@runtime_checkable
class FedEngine(Protocol):
    """An engine to which prompts are added while it generates."""

    @property
    def slots(self) -> int:
        """The answers that it generates at a time."""
        ...

    def feed(
        self, take: Take, policy: Policy | Mixture, draw: SamplingParams, *, round: int, seed: int
    ) -> Iterator[Rollouts]:
        """As `StreamingEngine.stream`, of the prompts that `take` returns until it returns None."""
        ...
