"""A win rate beside those of earlier rounds, paired by held-out prompt."""

from __future__ import annotations

import numpy as np

from rlhf_flow.metrics.win_rate import gap
from rlhf_flow.stages.context import RunContext


def drop(context: RunContext, wins: np.ndarray) -> dict[str, float]:
    """How far this round's win rate is below the best of the earlier ones; empty if it is the first.

    `wins`: [B], P(the answer beats the start's).
    """
    rates = _rates(context)
    if not rates:
        return {}
    best = max(rates, key=lambda each: rates[each])
    rounds = evaluated(context)
    confidence = 1 - 0.05 / max(1, rounds * (rounds - 1) / 2)
    return gap("eval/win_rate_drop", _wins_of(context, best), wins, confidence=confidence)


def change(context: RunContext, wins: np.ndarray) -> dict[str, float]:
    """This round's win rate minus that of the last evaluated round; empty if that is the start, whose rate is 1/2."""
    last = max(_rates(context), default=0)
    return gap("eval/win_rate_change", wins, _wins_of(context, last)) if last else {}


def evaluated(context: RunContext) -> int:
    """The number of rounds that are evaluated, with the start."""
    return 1 + -(-context.rounds // context.evaluation.every)


def _rates(context: RunContext) -> dict[int, float]:
    """round -> win rate, of the earlier rounds that measured it."""
    metrics = {record.round: record.metrics for record in context.ledger.records}
    return {round: known["eval/win_rate"] for round, known in metrics.items() if "eval/win_rate" in known}


def _wins_of(context: RunContext, round: int) -> np.ndarray:
    """[B]"""
    wins = context.ledger.table(round, "evaluate", "evaluation/compared").read(["win"])["win"].to_numpy()
    return np.asarray(wins)
