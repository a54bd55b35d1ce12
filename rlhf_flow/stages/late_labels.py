"""Labels that come when their round is over: whoever was asked may still answer, and a later round learns from it.

Committed files never change, so a late label is committed in the round it arrives in, under its round of origin.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from rlhf_flow.stages import read_scores as judged
from rlhf_flow.stages.context import RunContext
from rlhf_flow.storage import parquet as rows
from rlhf_flow.storage.store import StageFacts, StageRecord, StageWriter
from rlhf_flow.types import Rollouts, RoundPlan, Scored

OVERDUE = "overdue"  # the mark of a verdict that a round went on without


def late(parts: RunContext, plan: RoundPlan) -> StageRecord | None:
    """Ask the judge again for what earlier rounds went on without; None where there is no such thing.

    Committed as scores of those rounds' answers in which nothing is known but what arrived, and `overdue` marks what
    still has not.
    """
    if not (waiting := _waiting(parts, plan.round)):
        return None

    def write(shelf: StageWriter) -> StageFacts:
        open_after, labels = [], 0
        for origin in waiting:
            for index, then in enumerate(_last_seen(parts, plan.round, origin)):
                now = _asked_again(parts, then)
                shelf.table(f"late/{origin:05d}-{index:05d}", rows.from_scored(now))
                labels += int((then.pair_flags[OVERDUE] & ~now.pair_flags[OVERDUE]).sum()) // 2
                if now.pair_flags[OVERDUE].any() and origin not in open_after:
                    open_after.append(origin)
        return {"late/labels": labels, "origins": waiting, "waiting": open_after}

    parts.progress(plan.round, "late", 0, 1, "rounds")
    entry = parts.ledger.commit(plan.round, "late", write)
    parts.progress(plan.round, "late", 1, 1, "rounds")
    return entry


def _waiting(parts: RunContext, round: int) -> list[int]:
    """The earlier rounds whose verdicts are not all there yet."""
    before, scored = (parts.ledger.entry(round - 1, stage) for stage in ("late", "score"))
    still = [] if before is None else before.facts["waiting"]
    assert isinstance(still, list)
    return [*still, round - 1] if scored is not None and scored.facts.get(f"judge/{OVERDUE}") else still


def _last_seen(parts: RunContext, round: int, origin: int) -> list[Scored]:
    """What was known of a round's answers when the round before this one was over."""
    if origin == round - 1:
        return [_marked(scored) for scored in judged.in_round(parts, origin)]
    return judged.late_in(parts, round - 1)[origin]


def _marked(scored: Scored) -> Scored:
    """A shard of which nothing is overdue has no mark."""
    return replace(scored, pair_flags={OVERDUE: scored.pair_flags.get(OVERDUE, np.zeros_like(scored.wins, dtype=bool))})


def _asked_again(parts: RunContext, then: Scored) -> Scored:
    """What arrived since `then`, and what is overdue still; everything else is unknown."""
    overdue = then.pair_flags[OVERDUE]  # [B, N, N]
    asked = np.flatnonzero(overdue.any((1, 2)))
    wins = np.where(np.eye(overdue.shape[1], dtype=bool), 0.5, np.nan) * np.ones_like(then.wins)
    utility, still = then.utility.copy(), overdue.copy()
    if asked.size:
        groups = then.rollouts
        some = Rollouts(
            groups.round, tuple(groups.prompts[b] for b in asked), tuple(groups.responses[b] for b in asked)
        )
        now = _marked(parts.scorer.score(some))
        came = overdue[asked] & ~now.pair_flags[OVERDUE]
        wins[asked] = np.where(came, now.wins, wins[asked])
        utility[asked], still[asked] = now.utility, overdue[asked] & ~came
    return Scored(then.rollouts, utility=utility, wins=wins, pair_flags={OVERDUE: still})
