"""The over-optimisation curve of a run: the evaluation scorer and the scorer of training against sqrt(KL).

Gao et al. 2023, arXiv:2210.10760: the distance of a policy from the start is the square root of its KL divergence.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import replace

from rlhf_flow.report.axes import drawn
from rlhf_flow.report.facts import judges
from rlhf_flow.report.figure import Figure, curve, lined
from rlhf_flow.report.format import number, supported
from rlhf_flow.report.measures import EVAL, RATE, TRAIN, Measure
from rlhf_flow.report.run_folder import Run
from rlhf_flow.report.svg_chart import Curve

KL, DISTANCE = "eval/kl", "√KL"
GOLD, PROXY = ("win_rate", "reward"), ("proxy_win_rate", "proxy")  # metrics under eval/
ENDS = ("", "_low", "_high")
BOTH = Measure(
    "eval/win_rate", "Over-optimisation",
    "win rates against the distance from the start, √KL; training over-optimises its scorer if that win rate rises "
    "while the one by the evaluation scorer falls", EVAL, RATE, 0.5,
)  # fmt: skip
RUNS = Measure(
    "eval/win_rate", "Win rate by distance",
    "against the distance from the start, √KL; of two runs at one distance, the higher curve is better",
    EVAL, RATE, 0.5,
)  # fmt: skip


def distances(run: Run) -> dict[int, float]:
    """round -> sqrt(KL), of the start and of the rounds that measured it; empty if none did.

    An estimate of the KL below 0 counts as 0.
    """
    measured = {round: math.sqrt(max(0.0, value)) for round, value in run.series(KL).items() if drawn(value)}
    return {**({0: 0.0} if 0 in run.metrics else {}), **measured} if measured else {}


def rows(run: Run) -> list[dict[str, float]]:
    """One row for each of the `distances`, nearest first: round, sqrt_kl, and what both scorers measured.

    Raises ValueError if no round measured the KL.
    """
    found = distances(run)
    if not found:
        raise ValueError(
            f"{run.folder}: no round measured the KL to the start. Fix: evaluate.draw.temperature=1, "
            "evaluate.draw.top_p=1 and prompts.held_out in a run: it is estimated from answers of the policy itself."
        )
    keys = [f"{name}{end}" for name in (*GOLD, *PROXY) for end in ENDS]
    return [
        {"round": float(round), "sqrt_kl": distance}
        | {key: run.metrics[round][f"eval/{key}"] for key in keys if f"eval/{key}" in run.metrics[round]}
        for round, distance in sorted(found.items(), key=lambda one: one[1])
    ]


def passed_its_best(rows: Sequence[dict[str, float]]) -> str:
    """A clause if the gold win rate fell behind its best while the policy went on; else empty.

    It has fallen if the interval of the farthest round lies below the best win rate.
    """
    known = [row for row in rows if "win_rate" in row]
    if not known:
        return ""
    best, last = max(known, key=lambda row: row["win_rate"]), known[-1]
    if last.get("win_rate_high", last["win_rate"]) >= best["win_rate"]:
        return ""
    highest, fallen = (
        number(row["win_rate"], supported(".3f", row.get("win_rate_low"), row.get("win_rate_high")))
        for row in (best, last)
    )
    return (
        f"the win rate is greatest in round {best['round']:.0f}, {highest} at {DISTANCE} "
        f"{best['sqrt_kl']:.2f}, and falls to {fallen} at {last['sqrt_kl']:.2f}"
    )


def figure(run: Run) -> Iterator[Figure]:
    """The win rates by both scorers, if evaluation uses a scorer that training does not."""
    if judges(run).shared:
        return
    proxy = replace(BOTH, key="eval/proxy_win_rate")
    lines = [
        *_curve(run, BOTH, "evaluation scorer", EVAL, 0),
        *_curve(run, proxy, "training scorer", TRAIN, 1),
    ]
    if lines:
        clauses = [BOTH.note, passed_its_best(rows(run))]
        yield _against(replace(BOTH, note="; ".join(filter(None, clauses))), lines)


def figure_of_runs(runs: Sequence[Run]) -> Iterator[Figure]:
    """The win rate of each run by its evaluation scorer, in the colour of the run."""
    found = [_curve(run, RUNS, run.name, f"run{at + 1}", at) for at, run in enumerate(runs)]
    if lines := [line for one in found for line in one]:
        yield _against(RUNS, lines)


def _curve(run: Run, measure: Measure, name: str, colour: str, dash: int) -> list[Curve]:
    """The curve over the rounds that have a distance, if there are at least two."""
    found = curve(run, measure, name, colour, dash)
    along = {round: distance for round, distance in distances(run).items() if round in found.points}
    if len(along) < 2:
        return []
    points, low, high = (
        {round: values[round] for round in along if round in values} for values in (found.points, found.low, found.high)
    )
    return [replace(found, points=points, low=low, high=high, along=along)]


def _against(measure: Measure, lines: Sequence[Curve]) -> Figure:
    return lined(measure, lines, rounds=(), events={}, named=True, across=DISTANCE)
