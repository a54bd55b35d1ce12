"""Plain lines: one a round and one a long stage, for pipes and files; or only warnings; or events in JSON."""

from __future__ import annotations

import contextlib
import json
import math
import threading
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TextIO

from rlhf_flow.observe.settings import ObservedRun, Observer, flat
from rlhf_flow.observe.stage_clock import Stage, StageClock
from rlhf_flow.observe.summary_line import duration, line, round_of, warnings
from rlhf_flow.system.output import received_by
from rlhf_flow.types import RoundRecord

LONG = 10.0  # seconds after which a stage gets its own line
SILENT = 60.0  # seconds without a line after which the running stages are named; twice as many for each further time


@dataclass
class Lines(Observer):
    """Each round is one line, and each stage that takes longer than `LONG` is one line.

    A thread names the running stages if there is no line for `SILENT` seconds.
    """

    run: ObservedRun
    out: TextIO
    stages: StageClock = field(default_factory=StageClock)
    _reported: set[tuple[int, str]] = field(default_factory=set)
    _silence: float = SILENT  # until the running stages are named
    _last: float = 0.0  # when the last line was printed
    _closed: threading.Event = field(default_factory=threading.Event)
    _watch: threading.Thread | None = None

    def __post_init__(self) -> None:
        """Print where the run continues."""
        records = self.run.records
        begin = f"resumes after {self._line(records[-1])}" if records else "a new run"
        self._print(f"{self.run.folder}: {begin}")

    def stage(self, round: int, name: str, done: int, total: int, unit: str, detail: str = "") -> None:
        """Print the progress of a long stage once."""
        if self._watch is None:
            self._watch = threading.Thread(target=self._break_silences, daemon=True)
            self._watch.start()
        stage = self.stages.update(round, name, done, total, unit, detail)
        if (round, name) in self._reported or stage.seconds < LONG:
            return
        self._reported.add((round, name))
        self._progress(stage)

    def round(self, record: RoundRecord) -> None:
        self._silence = SILENT
        self.stages.forget(record.round)
        self._print(self._line(record))
        for text in warnings(record.round, record.metrics, limit=self.run.max_tokens):
            self._print(text)

    def close(self) -> None:
        self._closed.set()

    def break_silence(self) -> None:
        """Print how long the running stages take, if nothing was printed for a while."""
        if self.stages.clock() - self._last < self._silence:
            return
        for stage in self.stages.running():
            self._progress(stage)
            self._silence *= 2

    def _break_silences(self) -> None:
        while not self._closed.wait(LONG):
            self.break_silence()

    def _progress(self, stage: Stage) -> None:
        begin = f"{round_of(stage.round, self.run.rounds)} · {stage.name} {stage.count} in {duration(stage.seconds)}"
        self._print(" · ".join([begin, *stage.pace, *([stage.detail] if stage.detail else [])]))

    def _line(self, record: RoundRecord) -> str:
        return line(record.round, self.run.rounds, flat(record), limit=self.run.max_tokens)

    def _print(self, text: str) -> None:
        print(text, file=self.out, flush=True)
        self._last = self.stages.clock()


@dataclass
class Warnings(Observer):
    """The alarms and warnings of a round alone."""

    run: ObservedRun
    out: TextIO

    def round(self, record: RoundRecord) -> None:
        for text in warnings(record.round, record.metrics, limit=self.run.max_tokens):
            print(text, file=self.out, flush=True)


@dataclass
class JsonEvents(Observer):
    """One JSON object a line: {"event": "start" | "stage" | "round" | "warning" | "message" | "end", ...}.

    A number that is not finite is null.
    """

    run: ObservedRun
    out: TextIO
    _open: contextlib.ExitStack = field(default_factory=contextlib.ExitStack)

    def __post_init__(self) -> None:
        self._open.enter_context(received_by(lambda message: self._write("message", text=message)))
        done = self.run.records[-1].round if self.run.records else None
        self._write("start", run_dir=str(self.run.folder), rounds=self.run.rounds, resumed_after=done)

    def stage(self, round: int, name: str, done: int, total: int, unit: str, detail: str = "") -> None:
        self._write("stage", round=round, stage=name, done=done, total=total, unit=unit, detail=detail)

    def round(self, record: RoundRecord) -> None:
        self._write("round", round=record.round, metrics=_finite(record.metrics), seconds=_finite(record.seconds))
        for text in warnings(record.round, record.metrics, limit=self.run.max_tokens):
            self._write("warning", round=record.round, text=text)

    def close(self) -> None:
        self._open.close()

    def _write(self, event: str, **values: object) -> None:
        write_event(self.out, event, **values)


def write_event(out: TextIO, event: str, **values: object) -> None:
    print(json.dumps({"event": event, **values}, allow_nan=False), file=out, flush=True)


def _finite(values: Mapping[str, float]) -> dict[str, float | None]:
    return {key: value if math.isfinite(value) else None for key, value in values.items()}
