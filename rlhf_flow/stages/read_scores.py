"""What the judge said, read back from what was committed: of a round's own answers, and of earlier rounds' later on."""

from __future__ import annotations

from rlhf_flow.stages.context import RunContext
from rlhf_flow.storage import parquet as rows
from rlhf_flow.storage.store import StageRecord
from rlhf_flow.types import Rollouts, Scored


def of(parts: RunContext, round: int, answers: StageRecord, scored: StageRecord) -> Scored:
    """Of one piece of a round."""
    (scores,) = parts.ledger.table(round, scored).read_shards()
    (responses,) = parts.ledger.table(round, answers).read_shards()
    return rows.to_scored(scores, rows.to_rollouts(responses))


def in_round(parts: RunContext, round: int) -> list[Scored]:
    """Of the answers that were sampled in a round, shard by shard."""
    scores = parts.ledger.table(round, _committed(parts, round, "score")).read_shards()
    return [rows.to_scored(mark, rollouts) for rollouts, mark in zip(_rollouts(parts, round), scores, strict=True)]


def late_in(parts: RunContext, round: int) -> dict[int, list[Scored]]:
    """What the round's stage `late` committed: round of origin -> of its answers, shard by shard."""
    entry = parts.ledger.entry(round, "late")
    if entry is None:
        return {}
    scores = parts.ledger.table(round, entry).read_shards()  # in the order of their names: round by round
    return {
        origin: [rows.to_scored(next(scores), rollouts) for rollouts in _rollouts(parts, origin)]
        for origin in origins(entry)
    }


def origins(late: StageRecord) -> list[int]:
    """The rounds whose answers a committed stage `late` is about."""
    found = late.facts["origins"]
    assert isinstance(found, list)
    return found


def _rollouts(parts: RunContext, round: int) -> list[Rollouts]:
    """The answers of a round, shard by shard."""
    committed = parts.ledger.table(round, _committed(parts, round, "sample"))
    return [rows.to_rollouts(shard) for shard in committed.read_shards()]


def _committed(parts: RunContext, round: int, stage: str) -> StageRecord:
    entry = parts.ledger.entry(round, stage)
    assert entry is not None, f"round {round} has no {stage}"
    return entry
