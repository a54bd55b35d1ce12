"""What a run has written to its folder so far, for `Run`: metrics, pairs and the newest policy."""

from __future__ import annotations

import json
from collections.abc import Mapping
from numbers import Integral
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rlhf_flow.stages.run_data import Answer, RunData
from rlhf_flow.storage.ledger import Ledger
from rlhf_flow.storage.run_policies import closed_rounds, is_run, kept_rounds, start_folder
from rlhf_flow.system.errors import brief

if TYPE_CHECKING:
    import pandas as pd


def done(folder: Path) -> int:
    """The last finished round; -1 if there is none."""
    return max(closed_rounds(folder), default=-1)


def metrics(folder: Path) -> pd.DataFrame:
    """One row a round, by its number."""
    import pandas as pd

    path = folder / "metrics.jsonl"
    lines = path.read_text(encoding="utf-8").splitlines() if path.is_file() else []
    return pd.DataFrame([json.loads(line) for line in lines], columns=None if lines else ["round"]).set_index("round")


def policy(folder: Path, *, start: str) -> Path:
    """The folder of the newest policy on disk; the start if there is none."""
    kept = kept_rounds(folder)
    if not kept:
        return start_folder(folder) if is_run(folder) else Path(start)
    return Ledger(folder).folder(kept[-1]) / "policy"


def pairs(folder: Path, round: Any) -> pd.DataFrame:  # noqa: ANN401  # checked here
    """The pairs of a round; each group as the pair of its first two, a single answer without a rejected one.

    Raises ValueError if the round has none.
    """
    import pandas as pd

    if not isinstance(round, Integral):
        raise ValueError(f"round={brief(round)}: expected the number of a round. Fix: run.pairs(1).")
    data = RunData(folder)
    if round not in data.rounds:
        have = f"a round from {data.rounds[0]} to {data.rounds[-1]}" if data.rounds else "finish round 1 first"
        raise ValueError(f"round={round}: {folder} has no pairs of it. Fix: {have}.")
    answers = data.answers(int(round))
    return pd.DataFrame([_pair(row, answers) for row in data.pairs(int(round))], columns=COLUMNS)


COLUMNS = ["prompt", "chosen", "rejected", "preference", "weight", "prompt_id", "chosen_id", "rejected_id"]


def _pair(row: Mapping[str, Any], answers: Mapping[str, Answer]) -> dict[str, object]:
    """A row of `pairs`, the preferred side first."""
    first, second, preference = row["first"], row["second"], row["preference"]
    if second is not None and preference < 0.5:
        first, second, preference = second, first, 1 - preference
    return {
        "prompt": answers[first].messages,
        "chosen": answers[first].text,
        "rejected": None if second is None else answers[second].text,
        "preference": preference,
        "weight": row["weight"],
        "prompt_id": row["prompt"],
        "chosen_id": first,
        "rejected_id": second,
    }
