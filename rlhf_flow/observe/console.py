"""The terminal: a live view of the stages of a round; in a pipe or a file, lines about rounds and long stages."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from rlhf_flow.metrics.alarms import raised
from rlhf_flow.observe.settings import flat
from rlhf_flow.observe.summary_line import duration, line
from rlhf_flow.types import RoundRecord

if TYPE_CHECKING:
    from rich.console import Console as Terminal
    from rich.progress import Progress, TaskID


LONG = 10.0  # seconds after which a stage has a line of its own where there is no terminal


@dataclass
class Console:
    """On a terminal each stage has a bar, a rate, the time left and its latest loss.

    In a pipe or a file a round is one line, and so is a stage that takes longer than `LONG`, at most once.
    """

    terminal: Terminal
    rounds: int | None  # of the whole run
    limit: int | None = None  # tokens at which an answer is cut; None: draws differ
    _live: Progress | None = None
    clock: Callable[[], float] = time.monotonic
    _bars: dict[tuple[int, str], TaskID] = field(default_factory=dict)
    _began: dict[tuple[int, str], tuple[float, int]] = field(default_factory=dict)  # when, and what was done by then
    _told: set[tuple[int, str]] = field(default_factory=set)

    @classmethod
    def open(
        cls,
        run_dir: Path,
        records: Sequence[RoundRecord],
        config: Mapping[str, object],
        terminal: Terminal | None = None,
    ) -> Console:
        """Say where the run stands, and show the live view where `terminal` (stdout) is one."""
        from rich.console import Console as Terminal

        terminal = terminal or Terminal(highlight=False)
        rounds = config.get("rounds")
        limits = {value for key, value in config.items() if key.startswith("sampler.") and key.endswith(".max_tokens")}
        limit = limits.pop() if len(limits) == 1 else None
        console = cls(
            terminal=terminal,
            rounds=rounds if isinstance(rounds, int) else None,
            limit=limit if isinstance(limit, int) else None,
        )
        if records:
            console._say(f"{run_dir}: goes on after {console._line(records[-1])}")
        else:
            console._say(f"{run_dir}: a new run")
        if terminal.is_terminal and not terminal.is_dumb_terminal:
            console._live = _progress(terminal)
            console._live.start()
        return console

    def stage(self, round: int, name: str, done: int, total: int, unit: str, detail: str = "") -> None:
        if self._live is None:
            self._stage_line(round, name, done, total, unit, detail)
            return
        bar = self._bars.get((round, name))
        if bar is None:
            of = "" if self.rounds is None else f"/{self.rounds}"
            # what was committed by an earlier start counts as done, but not towards the rate
            bar = self._live.add_task(
                name, total=total, completed=done, unit=unit, round=f"round {round}{of}", detail=detail
            )
            self._bars[round, name] = bar
        self._live.update(bar, total=total, completed=done, detail=detail)

    def round(self, record: RoundRecord) -> None:
        if self._live is not None:
            for at in [at for at in self._bars if at[0] <= record.round]:
                self._live.remove_task(self._bars.pop(at))
            self._live.refresh()
        self._say(self._line(record))
        for alarm in raised(record.metrics):
            self._say(f"alarm {alarm.name} in round {record.round}: {alarm.reason}")

    def _stage_line(self, round: int, name: str, done: int, total: int, unit: str, detail: str) -> None:
        """Say once how far a stage is that takes long; nothing of a stage that was over before."""
        at, now = (round, name), self.clock()
        began, before = self._began.setdefault(at, (now, done))
        if at in self._told or now - began < LONG:
            return
        self._told.add(at)
        of = "" if self.rounds is None else f"/{self.rounds}"
        seconds, made = now - began, done - before
        said = [f"round {round}{of} · {name} {done:,}/{total:,} {unit} in {duration(seconds)}"]
        said += [f"{made / seconds:.3g} {unit}/s"] if made > 0 and total > 1 else []
        said += [f"{duration((total - done) * seconds / made)} left"] if made > 0 and done < total else []
        self._say(" · ".join([*said, *([detail] if detail else [])]))

    def close(self) -> None:
        """Leave the terminal as it was; what a bar of an unfinished stage showed stays readable."""
        if self._live is not None:
            self._live.stop()
            self._live = None
            self._bars.clear()

    def _line(self, record: RoundRecord) -> str:
        return line(record.round, self.rounds, flat(record), limit=self.limit)

    def _say(self, text: str) -> None:
        """One line, never folded in a file; flushed, because a log is read while it is written."""
        self.terminal.print(text, markup=False, soft_wrap=not self.terminal.is_terminal)
        self.terminal.file.flush()


def _progress(terminal: Terminal) -> Progress:
    from rich.progress import BarColumn, Progress, ProgressColumn, Task, TextColumn
    from rich.text import Text

    class Count(ProgressColumn):
        def render(self, task: Task) -> Text:
            return Text(f"{task.completed:,.0f}/{task.total or 0:,.0f}", no_wrap=True)

    class Rate(ProgressColumn):
        def render(self, task: Task) -> Text:
            speed = task.finished_speed or task.speed
            if speed is None:
                return Text("")
            return Text(f"{speed:,.{0 if speed >= 10 else 2}f} {task.fields['unit']}/s", style="cyan", no_wrap=True)

    class Clock(ProgressColumn):
        """The time left; while nothing says how long a stage takes, the time that it has taken so far."""

        def render(self, task: Task) -> Text:
            left, taken = task.time_remaining, task.finished_time or task.elapsed or 0.0
            known = left is not None and not task.finished
            return Text(f"{duration(left or 0.0)} left" if known else duration(float(round(taken))), no_wrap=True)

    return Progress(
        TextColumn("{task.fields[round]}", style="dim"),
        TextColumn("{task.description}", style="bold", markup=False),
        BarColumn(bar_width=12),
        Count(),
        Rate(),
        Clock(),
        TextColumn("{task.fields[detail]}", style="dim", markup=False),
        console=terminal,
        refresh_per_second=5,
    )
