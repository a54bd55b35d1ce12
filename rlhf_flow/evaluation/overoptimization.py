"""The over-optimisation curve of a run: the evaluation scorer and the scorer of training against sqrt(KL).

Gao et al. 2023, arXiv:2210.10760: the distance of a policy from the start is the square root of its KL divergence.
"""

from __future__ import annotations

import math
from pathlib import Path

from rlhf_flow.report.run_folder import read

KL = "eval/kl"
GOLD, PROXY = ("win_rate", "reward"), ("proxy_win_rate", "proxy")  # metrics under eval/
ENDS = ("", "_low", "_high")


def curve(run: Path) -> list[dict[str, float]]:
    """One row a round that measured its KL, and one for the start: round, sqrt_kl, and what both scorers measured.

    An estimate of the KL below 0 counts as 0. Raises ValueError if no round measured it.
    """
    metrics = read(run).metrics
    if not any(KL in values for values in metrics.values()):
        raise ValueError(
            f"{run}: no round measured the KL to the start. Fix: evaluate.draw.temperature=1, evaluate.draw.top_p=1 "
            "and prompts.held_out in a run: the KL is estimated from answers of the policy itself."
        )
    rows = []
    for round, values in metrics.items():
        if round == 0 or KL in values:
            row = {"round": float(round), "sqrt_kl": math.sqrt(max(0.0, values.get(KL, 0.0)))}
            keys = [f"{name}{end}" for name in (*GOLD, *PROXY) for end in ENDS]
            rows.append(row | {key: values[f"eval/{key}"] for key in keys if f"eval/{key}" in values})
    return sorted(rows, key=lambda row: row["sqrt_kl"])


def passed_its_best(rows: list[dict[str, float]]) -> str:
    """A sentence if the gold win rate fell behind its best while the policy went on; else empty.

    It has fallen if the interval of the farthest round lies below the best win rate.
    """
    known = [row for row in rows if "win_rate" in row]
    if not known:
        return ""
    best, last = max(known, key=lambda row: row["win_rate"]), known[-1]
    if last.get("win_rate_high", last["win_rate"]) >= best["win_rate"]:
        return ""
    return (
        f"The win rate is greatest in round {best['round']:.0f}, {best['win_rate']:.3f} at sqrt(KL) "
        f"{best['sqrt_kl']:.2f}, and falls to {last['win_rate']:.3f} at {last['sqrt_kl']:.2f}."
    )
