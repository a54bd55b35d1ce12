"""Problems during a run, for its report: one line an event, appended to `events.jsonl` in the run's folder."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from rlhf_flow.types import RoundRecord


@dataclass
class Events:
    """Writes each death of a worker at the next progress of a stage or round.

    Deaths are not part of records or metrics, because what a run computes does not depend on them.
    """

    path: Path
    deaths: Callable[[], Sequence[str]]  # messages of the cluster so far
    _written: int = 0
    _round: int = 0

    def __post_init__(self) -> None:
        self._written = len(self.deaths())  # a persistent cluster has deaths of earlier runs

    def stage(self, round: int, name: str, done: int, total: int, unit: str, detail: str = "") -> None:
        self._note(round)

    def round(self, record: RoundRecord) -> None:
        self._note(record.round)

    def close(self) -> None:
        self._note(self._round)

    def _note(self, round: int) -> None:
        self._round = round
        new = list(self.deaths())[self._written :]
        if not new:
            return
        now = datetime.now(UTC).isoformat(timespec="seconds")
        lines = [json.dumps({"round": round, "event": "death", "time": now, "message": one}) for one in new]
        with self.path.open("a", encoding="utf-8") as file:
            file.write("".join(f"{line}\n" for line in lines))
        self._written += len(new)
