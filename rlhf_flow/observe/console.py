"""The terminal: a live view of the stages of a round; in a pipe or a file, one line a round or long stage."""

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
    from rich.progress import Progress, Task, TaskID

LONG = 10.0  # seconds after which a stage gets its own line if there is no terminal


@dataclass
class Console:
    """On a terminal each stage has a bar, a rate, the time left and its latest loss.

    In a pipe or a file each round is one line, and each stage that takes longer than `LONG` is one line.
    """

    terminal: Terminal
    rounds: int | None  # of the whole run
    limit: int | None = None  # tokens at which an answer is truncated; None: draws differ
    _live: Progress | None = None
    clock: Callable[[], float] = time.monotonic
    _bars: dict[tuple[int, str], TaskID] = field(default_factory=dict)
    _began: dict[tuple[int, str], tuple[float, int]] = field(default_factory=dict)  # start time, and units done by then
    _reported: set[tuple[int, str]] = field(default_factory=set)

    @classmethod
    def open(
        cls,
        run_dir: Path,
        records: Sequence[RoundRecord],
        config: Mapping[str, object],
        terminal: Terminal | None = None,
    ) -> Console:
        """Print where the run continues, and start the live view if `terminal` (stdout) is a terminal."""
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
            console._print(f"{run_dir}: resumes after {console._line(records[-1])}")
        else:
            console._print(f"{run_dir}: a new run")
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
            # units that an earlier start committed count as done, but not for the rate
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
        self._print(self._line(record))
        for alarm in raised(record.metrics):
            self._print(f"alarm {alarm.name} in round {record.round}: {alarm.reason}")

    def _stage_line(self, round: int, name: str, done: int, total: int, unit: str, detail: str) -> None:
        """Print the progress of a long stage once."""
        at, now = (round, name), self.clock()
        began, before = self._began.setdefault(at, (now, done))
        if at in self._reported or now - began < LONG:
            return
        self._reported.add(at)
        of = "" if self.rounds is None else f"/{self.rounds}"
        seconds, made = now - began, done - before
        words = [f"round {round}{of} · {name} {done:,}/{total:,} {unit} in {duration(seconds)}"]
        words += [f"{made / seconds:.3g} {unit}/s"] if made > 0 and total > 1 else []
        words += [f"{duration((total - done) * seconds / made)} left"] if made > 0 and done < total else []
        self._print(" · ".join([*words, *([detail] if detail else [])]))

    def close(self) -> None:
        """Stop the live view; the bars of unfinished stages stay on the screen."""
        if self._live is not None:
            self._live.stop()
            self._live = None
            self._bars.clear()

    def _line(self, record: RoundRecord) -> str:
        return line(record.round, self.rounds, flat(record), limit=self.limit)

    def _print(self, text: str) -> None:
        """Print one line, unwrapped in a file, and flush it."""
        self.terminal.print(text, markup=False, soft_wrap=not self.terminal.is_terminal)
        self.terminal.file.flush()


def _progress(terminal: Terminal) -> Progress:
    from rich.progress import BarColumn, Progress, ProgressColumn, TextColumn
    from rich.text import Text

    class Computed(ProgressColumn):
        def __init__(self, text: Callable[[Task], str], style: str = "") -> None:
            super().__init__()
            self._text, self._style = text, style

        def render(self, task: Task) -> Text:
            return Text(self._text(task), style=self._style, no_wrap=True)

    return Progress(
        TextColumn("{task.fields[round]}", style="dim"),
        TextColumn("{task.description}", style="bold", markup=False),
        BarColumn(bar_width=12),
        Computed(lambda task: f"{task.completed:,.0f}/{task.total or 0:,.0f}"),
        Computed(_rate, style="cyan"),
        Computed(_time),
        TextColumn("{task.fields[detail]}", style="dim", markup=False),
        console=terminal,
        refresh_per_second=5,
    )


def _rate(task: Task) -> str:
    speed = task.finished_speed or task.speed
    return "" if speed is None else f"{speed:,.{0 if speed >= 10 else 2}f} {task.fields['unit']}/s"


def _time(task: Task) -> str:
    """The time left or, if it is unknown, the time so far."""
    if task.time_remaining is not None and not task.finished:
        return f"{duration(task.time_remaining)} left"
    return duration(float(round(task.finished_time or task.elapsed or 0.0)))
