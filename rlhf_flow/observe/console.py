"""Plain lines: one a round and one a long stage, for pipes and files; or only warnings; or events in JSON."""

from __future__ import annotations

import contextlib
import json
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TextIO

from rlhf_flow.observe.settings import ObservedRun, Observer, flat
from rlhf_flow.observe.stage_clock import StageClock
from rlhf_flow.observe.summary_line import duration, line, round_of, warnings
from rlhf_flow.system.output import received_by
from rlhf_flow.types import RoundRecord

LONG = 10.0  # seconds after which a stage gets its own line


@dataclass
class Lines(Observer):
    """Each round is one line, and each stage that takes longer than `LONG` is one line."""

    run: ObservedRun
    out: TextIO
    stages: StageClock = field(default_factory=StageClock)
    _reported: set[tuple[int, str]] = field(default_factory=set)

    def __post_init__(self) -> None:
        """Print where the run continues."""
        records = self.run.records
        begin = f"resumes after {self._line(records[-1])}" if records else "a new run"
        self._print(f"{self.run.folder}: {begin}")

    def stage(self, round: int, name: str, done: int, total: int, unit: str, detail: str = "") -> None:
        """Print the progress of a long stage once."""
        stage = self.stages.update(round, name, done, total, unit, detail)
        if (round, name) in self._reported or stage.seconds < LONG:
            return
        self._reported.add((round, name))
        begin = f"{round_of(round, self.run.rounds)} · {name} {stage.count} in {duration(stage.seconds)}"
        self._print(" · ".join([begin, *stage.pace, *([detail] if detail else [])]))

    def round(self, record: RoundRecord) -> None:
        self._print(self._line(record))
        for text in warnings(record.round, record.metrics, limit=self.run.max_tokens):
            self._print(text)

    def _line(self, record: RoundRecord) -> str:
        return line(record.round, self.run.rounds, flat(record), limit=self.run.max_tokens)

    def _print(self, text: str) -> None:
        print(text, file=self.out, flush=True)


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
