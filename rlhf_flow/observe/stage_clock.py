"""How far the stages of a run are: their rates, and the time that is left."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace

from rlhf_flow.observe.summary_line import duration


@dataclass(frozen=True)
class Stage:
    """A stage at one moment."""

    round: int
    name: str
    done: int
    total: int
    unit: str
    detail: str = ""
    made: int = 0  # units since this start of the run first saw the stage; an earlier start made the others
    seconds: float = 0.0  # since then

    @property
    def count(self) -> str:
        return f"{self.done:,}/{self.total:,} {self.unit}"

    @property
    def pace(self) -> list[str]:
        """Rate and time left, as far as they are known."""
        if self.made <= 0 or self.seconds <= 0:
            return []
        words = [f"{self.made / self.seconds:.3g} {self.unit}/s"] if self.total > 1 else []
        left = (self.total - self.done) * self.seconds / self.made
        return [*words, *([f"{duration(left)} left"] if self.done < self.total else [])]


@dataclass
class StageClock:
    """The stages that have begun, and when."""

    clock: Callable[[], float] = time.monotonic
    _stages: dict[tuple[int, str], tuple[Stage, float, int]] = field(default_factory=dict)  # its begin: time and units

    def update(self, round: int, name: str, done: int, total: int, unit: str, detail: str = "") -> Stage:
        """The stage as it is now."""
        now = self.clock()
        _, began, before = self._stages.get((round, name), (None, now, done))
        stage = Stage(round, name, done, total, unit, detail, done - before, now - began)
        self._stages[round, name] = stage, began, before
        return stage

    def running(self) -> Iterator[Stage]:
        """The unfinished stages, with the time that has passed since they began."""
        now = self.clock()
        for stage, began, _ in list(self._stages.values()):
            if stage.done < stage.total:
                yield replace(stage, seconds=now - began)

    def forget(self, round: int) -> None:
        """Forget the stages of rounds up to this one."""
        self._stages = {at: known for at, known in self._stages.items() if at[0] > round}
