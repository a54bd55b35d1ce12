"""The record of evaluations: eval.json with every result, and eval.parquet with every verdict."""

from __future__ import annotations

from itertools import combinations
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from rlhf_flow.evaluation.matrix import Interval, Matrix
from rlhf_flow.metrics.stats import with_interval
from rlhf_flow.system.files import read_json, write_json

RECORD, VERDICTS = "eval.json", "eval.parquet"
COLUMNS = pa.schema(
    [
        ("by", pa.string()),
        ("prompt", pa.string()),
        ("policy", pa.string()),
        ("opponent", pa.string()),
        ("win", pa.float64()),  # P(the policy's answer beats the opponent's)
    ]
)


def keep(out: Path, section: str, key: str, value: object) -> Path:
    """Write a result under `section` and `key` of eval.json, beside the others. Returns its path."""
    out.mkdir(parents=True, exist_ok=True)
    path = out / RECORD
    written = read_json(path) if path.exists() else {}
    written[section] = written.get(section, {}) | {key: value}
    write_json(path, written)
    return path


def keep_matrix(out: Path, matrix: Matrix) -> list[Path]:
    """Write a comparison to both files, in the place of an earlier one by the same scorer. Returns their paths."""
    path, verdicts = keep(out, "comparisons", matrix.by, described(matrix)), out / VERDICTS
    table = _verdicts(matrix)
    if verdicts.exists():
        old = pq.read_table(verdicts, schema=COLUMNS)
        others = [by != matrix.by for by in old["by"].to_pylist()]
        table = pa.concat_tables([old.filter(pa.array(others, pa.bool_())), table])
    temporary = verdicts.with_name(f".{VERDICTS}")
    pq.write_table(table, temporary)
    temporary.replace(verdicts)
    return [path, verdicts]


def described(matrix: Matrix) -> dict[str, object]:
    """`policies`: ratings and means, with intervals. `win_rates`: one entry for each ordered pair with verdicts."""
    return {
        "prompts": len(matrix.prompts),
        "queries": matrix.queries,
        "policies": [{"name": name, **row} for name, row in rated(matrix).items()],
        "win_rates": [
            {"policy": name, "opponent": other, "prompts": matrix.verdicts(i, j).size, **_rate(rate)}
            for i, name in enumerate(matrix.names)
            for j, other in enumerate(matrix.names)
            if i != j and (rate := matrix.rate(i, j)) is not None
        ],
    }


def rated(matrix: Matrix) -> dict[str, dict[str, float]]:
    """Of each policy: its ratings with intervals, and the means of `matrix.measures`."""
    return {
        name: {
            **with_interval("elo", *rating.elo),
            **with_interval("strength", rating.strength, rating.low, rating.high),
            **{key: float(np.nanmean(values[:, at])) for key, values in matrix.measures.items()},
        }
        for at, (name, rating) in enumerate(zip(matrix.names, matrix.ratings, strict=True))
    }


def _rate(rate: Interval) -> dict[str, float]:
    return with_interval("win_rate", *rate)


def _verdicts(matrix: Matrix) -> pa.Table:
    rows = [
        {"by": matrix.by, "prompt": prompt, "policy": matrix.names[i], "opponent": matrix.names[j], "win": win}
        for i, j in combinations(range(len(matrix.names)), 2)
        for prompt, win in zip(matrix.prompts, matrix.wins[:, i, j].tolist(), strict=True)
        if win == win  # not NaN
    ]
    return pa.Table.from_pylist(rows, schema=COLUMNS)
