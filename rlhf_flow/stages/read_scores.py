"""Reads committed scores: of a round's own responses, and those that arrived late for earlier rounds."""

from __future__ import annotations

from collections.abc import Iterator

from rlhf_flow.stages.context import RunContext
from rlhf_flow.storage import parquet as rows
from rlhf_flow.storage.store import StageRecord, Store
from rlhf_flow.storage.tables import Table
from rlhf_flow.types import Scored


def of_chunk(context: RunContext, round: int, index: int) -> Scored:
    """Scores of one committed chunk of a round."""
    responses = context.ledger.table(round, f"sample.{index:05d}").read()
    return rows.to_scored(context.ledger.table(round, f"score.{index:05d}").read(), rows.to_rollouts(responses))


def of_round(context: RunContext, round: int) -> list[Scored]:
    """Scores of the responses that were sampled in a round, one item per shard."""
    return list(scored(context.ledger, round, context.ledger.table(round, "score")))


def late_scores(context: RunContext, round: int) -> dict[int, list[Scored]]:
    """What the stage `late` of a round committed: round of origin -> scores, one item per shard of its responses."""
    record = context.ledger.committed(round, "late")
    return {
        origin: list(scored(context.ledger, origin, context.ledger.table(round, "late", f"late/{origin:05d}-")))
        for origin in ([] if record is None else origins(record))
    }


def origins(late: StageRecord) -> list[int]:
    """The rounds whose responses a committed stage `late` scored again."""
    found = late.facts["origins"]
    assert isinstance(found, list)
    return found


def scored(ledger: Store, round: int, scores: Table) -> Iterator[Scored]:
    """The scores of the responses that were sampled in a round, one item per shard."""
    for shard, responses in zip(scores.read_shards(), ledger.table(round, "sample").read_shards(), strict=True):
        yield rows.to_scored(shard, rows.to_rollouts(responses))
