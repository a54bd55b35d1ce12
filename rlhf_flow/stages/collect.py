"""The stages sample, score and select: from prompts to labelled pairs.

`sample` and `score` are committed in chunks of `prompts_per_commit` prompts.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial

import numpy as np

from rlhf_flow.metrics.alarms import check_silence
from rlhf_flow.metrics.intransitivity import measure
from rlhf_flow.stages import off_policy, read_scores
from rlhf_flow.stages.context import RunContext
from rlhf_flow.stages.policies import PolicyRegistry
from rlhf_flow.storage import parquet as rows
from rlhf_flow.storage.store import StageFacts, StageRecord, StageWriter
from rlhf_flow.types import Rollouts, RoundPlan


def collect(context: RunContext, plan: RoundPlan, policies: PolicyRegistry) -> None:
    """Sample and score batches of prompts until the selector finds `context.min_pairs` pairs in them."""
    if context.ledger.committed(plan.round, "score") is not None:
        return
    sampled: list[StageRecord] = []
    scored: list[StageRecord] = []
    useful = 0
    for page in range(context.max_batches):
        first = len(sampled)
        sample(context, plan, policies, page, sampled)
        score(context, plan, sampled, scored)
        if context.min_pairs is None or len(sampled) == first:
            break
        for index in range(first, len(sampled)):
            useful += len(context.selector.select(read_scores.of_chunk(context, plan.round, index)).pairs)
        if useful >= context.min_pairs:
            break
    context.ledger.commit_merged(plan.round, "sample", sampled)
    context.ledger.commit_merged(plan.round, "score", scored)


def sample(
    context: RunContext, plan: RoundPlan, policies: PolicyRegistry, page: int, sampled: list[StageRecord]
) -> None:
    """Sample responses to a page of prompts; append the records of its chunks to `sampled`."""
    prompts, size, first = context.prompts.batch(plan.round, page), context.prompts_per_commit, len(sampled)
    chunks = [prompts[start : start + size] for start in range(0, len(prompts), size)]

    def write(writer: StageWriter, index: int) -> StageFacts:
        players = {role: policies.playing(plan, role) for role in plan.samplers}
        rollouts = context.sampler.sample(
            context.engine, chunks[index - first], players, round=plan.round, seed=context.seed
        )
        rollouts = _with_staleness(rollouts, plan)
        writer.table(f"responses/{index:05d}", rows.from_rollouts(rollouts))
        responses = [response for group in rollouts.responses for response in group]
        return {
            "tokens/sampled": sum(len(response.tokens) for response in responses),
            "responses/sampled": len(responses),
        }

    _commit_chunks(context, plan.round, "sample", sampled, list(map(len, chunks)), write, unit="prompts")


def _with_staleness(rollouts: Rollouts, plan: RoundPlan) -> Rollouts:
    """Set the staleness of each response that the policy sampled, alone or in a mixture."""
    if "policy" not in plan.samplers:
        return rollouts
    rounds = plan.round - 1 - plan.samplers["policy"]
    return replace(
        rollouts,
        responses=tuple(
            tuple(replace(one, staleness=rounds) if one.source in ("policy", "mixture") else one for one in group)
            for group in rollouts.responses
        ),
    )


def score(context: RunContext, plan: RoundPlan, sampled: Sequence[StageRecord], scored: list[StageRecord]) -> None:
    """Score the chunks of `sampled` that `scored` lacks; append their records to it."""
    first = len(scored)
    tables = [context.ledger.table(plan.round, record.name) for record in sampled[first:]]

    def write(writer: StageWriter, index: int) -> StageFacts:
        result = context.scorer.score(rows.to_rollouts(tables[index - first].read()))
        counts = Counter(result.counts)
        for record in scored:
            counts.update({key: fact for key, fact in record.facts.items() if isinstance(fact, int)})
        check_silence(counts, context.alarms.silent_judge, slot="scorer")
        writer.table(f"scores/{index:05d}", rows.from_scored(result))
        known = result.utility[~np.isnan(result.utility)]  # without abstentions
        return {**result.counts, "reward/sum": float(known.sum(dtype=np.float64)), "reward/count": known.size}

    _commit_chunks(context, plan.round, "score", scored, [table.rows for table in tables], write, unit="answers")


def _commit_chunks(
    context: RunContext,
    round: int,
    stage: str,
    records: list[StageRecord],
    sizes: Sequence[int],
    write: Callable[..., StageFacts],
    *,
    unit: str,
) -> None:
    """Commit the next chunks of a stage, of `sizes` units each, and append their records."""
    for done in range(len(sizes)):
        context.progress(round, stage, sum(sizes[:done]), sum(sizes), unit)
        index = len(records)
        records.append(context.ledger.commit(round, f"{stage}.{index:05d}", partial(write, index=index)))
    context.progress(round, stage, sum(sizes), sum(sizes), unit)


def select(context: RunContext, plan: RoundPlan) -> StageRecord:
    """Select the pairs to train on, then those of earlier rounds whose labels arrived in this one."""

    def write(writer: StageWriter) -> StageFacts:
        responses, pairs = Counter[str](), Counter[str]()
        mismatch = off_policy.known(context, plan.round)
        shards = [
            off_policy.exclude(context, plan.round, shard, mismatch)
            for shard in read_scores.of_round(context, plan.round)
        ]
        for index, shard in enumerate(shards):
            selection = context.selector.select(shard)
            writer.table(f"pairs/{index:05d}", rows.from_selection(selection))
            responses.update(sorted(selection.response_buckets.values()))
            pairs.update(selection.pair_counts)
        record = context.ledger.committed(plan.round, "sample")
        total = None if record is None else record.facts["responses/sampled"]
        assert responses.total() == total, f"{responses.total()} responses in buckets, {total} were sampled"
        buckets = {"responses": responses, "pairs": pairs}
        writer.text("buckets.json", json.dumps(buckets, indent=1))
        counts = {f"{kind}/{name}": number for kind, each in buckets.items() for name, number in each.items()}
        cycles = measure(np.concatenate([shard.wins for shard in shards])) if context.intransitive and shards else {}
        return {**counts, **cycles, **_select_late(context, plan.round, writer)}

    return context.commit(plan.round, "select", write)


def _select_late(context: RunContext, round: int, writer: StageWriter) -> StageFacts:
    """Pairs of late labels. Their responses are in the buckets of the round that sampled them."""
    late, number = read_scores.late_scores(context, round), 0
    for origin, shards in late.items():
        mismatch = off_policy.known(context, origin)
        for index, shard in enumerate(shards):
            selection = context.selector.select(off_policy.exclude(context, round, shard, mismatch))
            writer.table(f"pairs/late-{origin:05d}-{index:05d}", rows.from_selection(selection))
            number += len(selection.pairs)
    return {"late/pairs": number} if late else {}
