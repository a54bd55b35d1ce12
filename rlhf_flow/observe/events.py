"""What broke during a run, for its report: `events.jsonl` in the run's folder, one line an event, appended."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path

from rlhf_flow.types import RoundRecord


@dataclass
class Events:
    """Writes the deaths of workers down as soon as a stage or a round tells that time has passed.

    No record and no metric says so: what a run computes does not depend on which worker died.
    """

    path: Path
    deaths: Callable[[], Sequence[str]]  # of the cluster so far
    _told: int = 0
    _round: int = field(default=0)

    def __post_init__(self) -> None:
        self._told = len(self.deaths())  # a cluster that stays up has seen deaths of earlier runs

    def stage(self, round: int, name: str, done: int, total: int, unit: str, detail: str = "") -> None:
        self._note(round)

    def round(self, record: RoundRecord) -> None:
        self._note(record.round)

    def close(self) -> None:
        self._note(self._round)

    def _note(self, round: int) -> None:
        self._round = round
        new = list(self.deaths())[self._told :]
        if not new:
            return
        now = datetime.now(UTC).isoformat(timespec="seconds")
        lines = [json.dumps({"round": round, "event": "death", "time": now, "message": one}) for one in new]
        with self.path.open("a", encoding="utf-8") as file:
            file.write("".join(f"{line}\n" for line in lines))
        self._told += len(new)
