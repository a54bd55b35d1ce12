"""The stage late: labels that arrive after their round is closed, and are trained on in the round they arrive in."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from rlhf_flow.stages import read_scores
from rlhf_flow.stages.context import RunContext
from rlhf_flow.storage import parquet as rows
from rlhf_flow.storage.store import StageFacts, StageRecord, StageWriter
from rlhf_flow.types import Rollouts, RoundPlan, Scored

OVERDUE = "overdue"  # the pair flag of a verdict that had not arrived when its round went on


def collect_late_labels(context: RunContext, plan: RoundPlan) -> StageRecord | None:
    """Ask the scorer again for the overdue verdicts of earlier rounds. None if there are none.

    Commits scores of those rounds' responses in which only the new verdicts are known, and which flag as `overdue` the
    verdicts that are still missing.
    """
    if not (waiting := _rounds_with_overdue(context, plan.round)):
        return None

    def write(writer: StageWriter) -> StageFacts:
        still_waiting, labels = [], 0
        for origin in waiting:
            for index, before in enumerate(_last_scores(context, plan.round, origin)):
                now = _ask_again(context, before)
                writer.table(f"late/{origin:05d}-{index:05d}", rows.from_scored(now))
                labels += int((before.pair_flags[OVERDUE] & ~now.pair_flags[OVERDUE]).sum()) // 2
                if now.pair_flags[OVERDUE].any() and origin not in still_waiting:
                    still_waiting.append(origin)
        return {"late/labels": labels, "origins": waiting, "waiting": still_waiting}

    return context.commit(plan.round, "late", write)


def _rounds_with_overdue(context: RunContext, round: int) -> list[int]:
    late, scored = (context.ledger.committed(round - 1, stage) for stage in ("late", "score"))
    waiting = [] if late is None else late.facts["waiting"]
    assert isinstance(waiting, list)
    return [*waiting, round - 1] if scored is not None and scored.facts.get(f"judge/{OVERDUE}") else waiting


def _last_scores(context: RunContext, round: int, origin: int) -> list[Scored]:
    """The scores of a round's responses as the previous round left them."""
    if origin == round - 1:
        return [_with_flag(scored) for scored in read_scores.of_round(context, origin)]
    return read_scores.late_scores(context, round - 1)[origin]


def _with_flag(scored: Scored) -> Scored:
    """With the flag `overdue`, which is absent if no verdict is overdue."""
    return replace(scored, pair_flags={OVERDUE: scored.pair_flags.get(OVERDUE, np.zeros_like(scored.wins, dtype=bool))})


def _ask_again(context: RunContext, before: Scored) -> Scored:
    """The verdicts that were overdue in `before`: those that have arrived, and a flag on the others."""
    overdue = before.pair_flags[OVERDUE]  # [B, N, N]
    asked = np.flatnonzero(overdue.any((1, 2)))
    wins = np.where(np.eye(overdue.shape[1], dtype=bool), 0.5, np.nan) * np.ones_like(before.wins)
    utility, missing = before.utility.copy(), overdue.copy()
    if asked.size:
        groups = before.rollouts
        now = _with_flag(
            context.scorer.score(
                Rollouts(
                    groups.round, tuple(groups.prompts[b] for b in asked), tuple(groups.responses[b] for b in asked)
                )
            )
        )
        arrived = overdue[asked] & ~now.pair_flags[OVERDUE]
        wins[asked] = np.where(arrived, now.wins, wins[asked])
        utility[asked], missing[asked] = now.utility, overdue[asked] & ~arrived
    return Scored(before.rollouts, utility=utility, wins=wins, pair_flags={OVERDUE: missing})
