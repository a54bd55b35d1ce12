"""A learner whose ranks report the time and the memory of a publish"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple

from rlhf_flow.cluster.weight_sync.transport import Streams
from rlhf_flow.learner.deepspeed import DeepSpeed
from rlhf_flow.specs import Model, Place
from rlhf_flow.types import Policy
from rlhf_flow.weights.fingerprint import Fingerprint
from rlhf_flow.weights.publish import Publishing, held
from transfer.meters import Clock, Memory, Spent


class Told(NamedTuple):
    """The report of one rank since its last report."""

    spent: dict[str, Spent]
    taken: int  # bytes above those held before


class Ranks:
    """A rank of the learner that measures its time and memory."""

    def __init__(self, learner: Any) -> None:  # noqa: ANN401
        from rlhf_flow.learner import preference_learner as preference
        from rlhf_flow.learner.state import Context

        self.learner, self.clock, self.memory = learner, Clock(), Memory()
        learner._probe = Context([3, 5, 7, 11], 1)
        learner.backend.whole = self.clock.timed("gather", learner.backend.whole)
        learner._prove = self.clock.timed("probe", self._unwatched(learner._prove))
        timed = {"add": self.clock.timed("hash", Fingerprint.add)}
        preference.Fingerprint = type("Timed", (Fingerprint,), timed)  # type: ignore[misc, assignment]
        self.start, self.averaging, self.close = learner.start, learner.averaging, learner.close
        self.step_aside, self.come_back = learner.step_aside, learner.come_back

    def publish(self, name: str, round: int) -> Policy:
        return held(self.publishing(name, round))

    def publishing(self, name: str, round: int) -> Publishing:
        """As the learner's, and times what the caller does with each bucket before it requests the next one."""
        inner = self.learner.publishing(name, round)
        while True:
            try:
                bucket = next(inner)
            except StopIteration as end:
                policy: Policy = end.value
                return policy
            with self.clock.on("put"):
                yield bucket

    def nudge(self, by: float, watched: bool) -> None:
        """Change the weights, so that there is something to publish. `watched`: sample memory, which takes time."""
        for parameter in self.learner.backend.parameters():
            parameter.seen.values.mul_(1 + by)
            parameter.master.values.mul_(1 + by)
        self.learner.held = None
        self.memory = Memory()
        if watched:
            self.memory.watch()

    def report(self) -> Told:
        return Told(self.clock.read(), self.memory.taken)

    def _unwatched(self, prove: Callable[..., Any]) -> Callable[..., Any]:
        """Stop sampling memory before the probe: it is a normal forward pass, and all buckets have left by then."""

        def proving(*policy: Any) -> Any:  # noqa: ANN401
            self.memory.leave()
            return prove(*policy)

        return proving


@dataclass(frozen=True)
class RanksSpec:
    spec: DeepSpeed

    @property
    def ranks(self) -> int:
        return self.spec.ranks

    def open(self, model: Model, place: Place) -> Ranks:
        ranks = Ranks(self.spec.open(model, place))
        assert isinstance(ranks, Streams), "a cluster would ask it for all weights at once"
        return ranks
