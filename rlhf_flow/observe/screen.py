"""The live view of a run on a terminal: its rounds as a table with trends, the current stages, samples and cost.

It lists as many rounds and samples as the window has room for.
"""

from __future__ import annotations

import contextlib
import re
import sys
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, TextIO

from rlhf_flow.metrics.bucket_counts import pairs
from rlhf_flow.observe.samples import Change, Since
from rlhf_flow.observe.settings import ObservedRun, Observer, flat
from rlhf_flow.observe.sparkline import sparkline
from rlhf_flow.observe.stage_clock import Stage, StageClock
from rlhf_flow.observe.summary_line import RATES, doubt, duration, judged, rate, warnings
from rlhf_flow.system.output import received_by
from rlhf_flow.system.visible_text import visible
from rlhf_flow.types import RoundRecord

if TYPE_CHECKING:
    from rich.console import Console, RenderableType
    from rich.live import Live
    from rich.table import Table
    from rich.text import Text

COLUMNS = (  # metric, title, format
    ("eval/reward", "judge", "{:.3f}"),
    ("eval/proxy", "proxy", "{:.3f}"),
    ("eval/kl", "KL", "{:.2f}"),
    ("eval/length", "length", "{:.0f}"),
    ("eval/truncated", "cut", "{:.0%}"),
    ("eval/distinct", "distinct", "{:.0%}"),
    ("train/loss", "loss", "{:.4f}"),
    ("train/accuracy", "accuracy", "{:.0%}"),
)
LEAST = ("distinct", "accuracy", "proxy", "loss", "cut", "length", "time")  # titles that a narrow window omits, in turn
GAP = 2  # characters between columns
TREND = 12  # rounds of a sparkline
LEAST_ROUNDS = 3  # that are listed, however low the window is
BAR = 16  # characters
MESSAGES = 3  # latest ones that are shown
REFRESHES = 4  # a second


@dataclass
class Screen(Observer):
    """Redrawn in place until the run ends; its last state stays on the terminal."""

    run: ObservedRun
    terminal: Console
    stages: StageClock = field(default_factory=StageClock)
    records: list[RoundRecord] = field(default_factory=list)
    messages: deque[str] = field(default_factory=lambda: deque(maxlen=MESSAGES))
    _since: tuple[int, Since] | None = None  # the last round with samples
    _live: Live | None = None
    _open: contextlib.ExitStack = field(default_factory=contextlib.ExitStack)

    @classmethod
    def open(cls, run: ObservedRun, out: TextIO) -> Screen:
        """Start the view on the terminal that `out` writes to."""
        from rich.console import Console

        return cls.on(run, Console(file=out, highlight=False))

    @classmethod
    def on(cls, run: ObservedRun, terminal: Console) -> Screen:
        from rich.live import Live

        screen = cls(run, terminal, records=list(run.records))
        for record in run.records:
            screen._keep_samples(record.round)
        live = Live(
            get_renderable=screen.view,
            console=terminal,
            refresh_per_second=REFRESHES,
            redirect_stdout=sys.stdout is terminal.file,
            redirect_stderr=sys.stdout is terminal.file,
            vertical_overflow="crop",
        )
        screen._open.enter_context(live)
        screen._open.enter_context(received_by(screen.messages.append))
        screen._live = live
        return screen

    def stage(self, round: int, name: str, done: int, total: int, unit: str, detail: str = "") -> None:
        self.stages.update(round, name, done, total, unit, detail)

    def round(self, record: RoundRecord) -> None:
        self.records.append(record)
        self.stages.forget(record.round)
        self._keep_samples(record.round)
        if self._live is not None:
            self._live.refresh()

    def close(self) -> None:
        """Leave the last view on the terminal; stages that did not end stay on it."""
        self._open.close()
        self._live = None

    def _keep_samples(self, round: int) -> None:
        since = self.run.changes(round)
        self._since = self._since if since is None else (round, since)

    def view(self) -> RenderableType:
        """All blocks, as far as the window has room; the table of rounds gives way first."""
        from rich.console import Group
        from rich.text import Text

        width, height = self.terminal.width, self.terminal.height
        stages = [_stage(stage, width) for stage in self.stages.running()]
        notes = [*self._notes()]
        below = len(stages) + len(notes) + 2
        room = height - below - 5  # head, titles, rule, trends, and a line that the cursor needs
        samples = self._samples(width, room - LEAST_ROUNDS - 1) if self._since is not None else []
        listed = max(LEAST_ROUNDS, room - (len(samples) + 1 if samples else 0))
        blocks: list[RenderableType] = [self._head(width)]
        if self.records:
            blocks += [_rounds(self.records, listed, width)]
        for block in (stages, samples, notes):
            if block:
                blocks += [Text(""), *block]
        return Group(*blocks)

    def _head(self, width: int) -> Text:
        from rich.text import Text

        done = self.records[-1].round if self.records else 0
        of = "" if self.run.rounds is None else f" of {self.run.rounds}"
        parts = [f"{done}{of} rounds"]
        seconds = [record.metrics["seconds/round"] for record in self.records[1:] if "seconds/round" in record.metrics]
        if seconds and self.run.rounds is not None and done < self.run.rounds:
            parts.append(f"about {duration((self.run.rounds - done) * sum(seconds) / len(seconds))} left")
        status = "  " + " · ".join(parts)
        name = visible(str(self.run.folder))
        room = max(width - len(status), 1)
        head = Text(name if len(name) <= room else f"…{name[1 - room :]}" if room > 1 else "", style="bold")
        head.append(status, style="not bold")
        return head

    def _samples(self, width: int, lines: int) -> list[Text]:
        """As many samples as fit into `lines`, each of three lines: prompt, before, after."""
        from rich.text import Text

        assert self._since is not None
        round, since = self._since
        fitting = since.changes[: max(0, (lines - 1) // 3)]
        if not fitting:
            return []
        then = "the start" if since.round == 0 else f"round {since.round}"
        head = Text(f"answers that changed most from {then} to round {round}", style="dim")
        head.truncate(width, overflow="ellipsis")
        return [head, *(line for change in fitting for line in _sample(change, width))]

    def _notes(self) -> Iterator[Text]:
        """Judge and cost, what chance explains, alarms of the last round, and messages."""
        from rich.text import Text

        if self.records:
            last = self.records[-1]
            for text in judged(_sum(self.records)):
                yield Text(f"judge so far: {text}")
            for key, name in RATES:
                if (why := doubt(last.metrics, key)) and last.round:
                    yield Text(f"round {last.round}: {name}{why}", style="dim")
            for text in warnings(last.round, last.metrics, limit=self.run.max_tokens):
                yield Text(text, style="bold red")
        for message in self.messages:
            yield Text(visible(message), style="yellow")


@dataclass(frozen=True)
class Column:
    """A metric over the rounds of a run."""

    title: str
    cells: list[str]
    values: list[float | None]

    @property
    def width(self) -> int:
        return max(map(len, (self.title, *self.cells)))


def _rounds(records: Sequence[RoundRecord], listed: int, width: int) -> Table:
    """The latest rounds, and below them the trend of each metric over rounds that may not be listed any more."""
    from rich.table import Table

    table = Table(box=None, padding=(0, GAP, 0, 0), pad_edge=False, header_style="dim")
    table.add_column("round", justify="right")
    cells = [[*(str(record.round) for record in records[-listed:]), "trend"]]
    for column in _fitting(list(_columns([flat(record) for record in records])), width - len("round")):
        table.add_column(column.title, justify="right", no_wrap=True)
        cells.append([*column.cells[-listed:], sparkline(column.values, min(TREND, column.width))])
    for row in list(zip(*cells, strict=True))[: None if len(records) > 1 else -1]:  # one round has no trend
        table.add_row(*row, style="cyan" if row[0] == "trend" else "")
    return table


def _fitting(columns: list[Column], width: int) -> list[Column]:
    """The columns without the least important ones, so that the others fit."""
    for title in LEAST:
        if sum(column.width + GAP for column in columns) <= width:
            break
        columns = [column for column in columns if column.title != title]
    return columns


def _columns(metrics: Sequence[Mapping[str, float]]) -> Iterator[Column]:
    """What was measured."""
    found = [
        Column(title, [rate(each, key) if key in each else "" for each in metrics], [each.get(key) for each in metrics])
        for key, title in RATES
    ]
    for key, title, form in COLUMNS:
        values = [each.get(key) for each in metrics]
        found.append(Column(title, ["" if value is None else form.format(value) for value in values], values))
    counted = [pairs(each) for each in metrics]
    cells = ["" if count is None else f"{count[0]}/{count[1]}" for count in counted]
    found.append(Column("pairs", cells, [None if count is None else float(count[0]) for count in counted]))
    seconds = [each.get("seconds/round") for each in metrics]
    found.append(Column("time", ["" if value is None else duration(value) for value in seconds], seconds))
    yield from (column for column in found if any(column.cells))


def _stage(stage: Stage, width: int) -> Text:
    """`learn  ━━━━━━━─────  640/1,000 pairs · 12.1 pairs/s · 29 s left · loss 0.6931`"""
    from rich.text import Text

    filled = round(BAR * stage.done / stage.total) if stage.total else BAR
    line = Text(f"round {stage.round} ", style="dim")
    line.append(f"{visible(stage.name):<9}", style="bold not dim")
    line.append("━" * filled, style="green not dim")
    line.append("─" * (BAR - filled))
    words = [stage.count, *(stage.pace or [duration(stage.seconds)]), *([stage.detail] if stage.detail else [])]
    line.append("  " + " · ".join(words), style="not dim")
    line.truncate(width, overflow="ellipsis")
    return line


def _sample(change: Change, width: int) -> list[Text]:
    from rich.text import Text

    lines = []
    labelled = (("", change.prompt, "bold"), ("  before  ", change.before, "dim"), ("  after   ", change.after, ""))
    for label, text, style in labelled:
        line = Text(label + (" ".join(visible(text).split()) or "(nothing)"), style=style)
        line.truncate(width, overflow="ellipsis")
        lines.append(line)
    return lines


def _sum(records: Sequence[RoundRecord]) -> dict[str, float]:
    """The judge's counts over all rounds; those of the evaluation scorer are included."""
    total: dict[str, float] = {}
    for record in records:
        for key, value in record.metrics.items():
            if (name := re.sub("^eval/(proxy_)?", "", key)).startswith("judge/"):
                total[name] = total.get(name, 0.0) + value
    return total
