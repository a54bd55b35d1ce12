"""The rounds of a run that are exported."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

from rlhf_flow.export.provenance import provenance
from rlhf_flow.stages.run_data import RunData


class Rounds(RunData):
    """The data of the chosen rounds of a run, with its provenance."""

    def __init__(self, run: Path, wanted: str | None = None) -> None:
        """`wanted`: such as 1-3,5; None: all. Raises ValueError if the folder holds no run, or lacks a wanted round."""
        super().__init__(run)
        self.provenance = provenance(run)
        self.numbers = self.rounds if wanted is None else _chosen(wanted, self.rounds)


def _chosen(wanted: str, known: Sequence[int]) -> list[int]:
    chosen: set[int] = set()
    for part in wanted.split(","):
        if not (found := re.fullmatch(r"(\d+)(?:-(\d+))?", part.strip())):
            raise ValueError(f"--rounds={wanted}: {part!r} is no round. Fix: write numbers and ranges, as in 1-3,5.")
        chosen |= set(range(int(found[1]), int(found[2] or found[1]) + 1))
    if missing := sorted(chosen - set(known)):
        have = f"{known[0]} to {known[-1]}" if known else "none"
        raise ValueError(f"--rounds={wanted}: round {missing[0]} has no pairs; the run has {have}. Fix: name others.")
    return sorted(chosen)
