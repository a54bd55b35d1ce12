"""The stages sample, score and select: from prompts to labelled pairs.

All prompts of a batch are sampled at once. `sample` and `score` are committed in chunks of `prompts_per_commit`.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from dataclasses import replace
from functools import partial
from queue import SimpleQueue

import numpy as np

from rlhf_flow.metrics.intransitivity import measure
from rlhf_flow.metrics.silent_judge import check_silence
from rlhf_flow.scorer.asks_policy import AsksPolicy
from rlhf_flow.stages import ask_policy, by_source, off_policy, read_scores
from rlhf_flow.stages.context import RunContext
from rlhf_flow.stages.given import add_given
from rlhf_flow.stages.policies import PolicyRegistry
from rlhf_flow.storage import parquet as rows
from rlhf_flow.storage.store import StageFacts, StageRecord, StageWriter
from rlhf_flow.system.background import in_thread
from rlhf_flow.types import Policy, Prompt, Response, Rollouts, RoundPlan, Selection


def collect(context: RunContext, plan: RoundPlan, policies: PolicyRegistry) -> None:
    """Sample and score batches of prompts until the selector finds `context.min_pairs` pairs in them."""
    if context.ledger.committed(plan.round, "score") is not None:
        return
    sampled: list[StageRecord] = []
    scored: list[StageRecord] = []
    useful = 0
    for page in range(context.max_batches):
        prompts, first = context.prompts.batch(plan.round, page), len(sampled)
        with scoring(context, plan, policies, scored, len(prompts)) as score:
            for record in sample(context, plan, policies, prompts, first):
                sampled.append(record)
                score(record)
        if context.min_pairs is None or len(sampled) == first:
            break
        for index in range(first, len(sampled)):
            useful += len(context.selector.select(read_scores.of_chunk(context, plan.round, index)).pairs)
        if useful >= context.min_pairs:
            break
    context.ledger.commit_merged(plan.round, "sample", sampled)
    context.ledger.commit_merged(plan.round, "score", scored)


def sample(
    context: RunContext, plan: RoundPlan, policies: PolicyRegistry, prompts: Sequence[Prompt], first: int
) -> Iterator[StageRecord]:
    """Sample responses to all prompts, and commit each chunk once its prompts are finished. Yields the records.

    `first`: the number of the first chunk in the round. Chunks that are committed are not sampled again.
    """
    size = context.prompts_per_commit
    chunks = {
        f"sample.{first + number:05d}": prompts[start : start + size]
        for number, start in enumerate(range(0, len(prompts), size))
    }
    left = [name for name in chunks if context.ledger.committed(plan.round, name) is None]
    pieces = _stream(context, plan, policies, [prompt for name in left for prompt in chunks[name]])
    finished: dict[str, tuple[Response, ...]] = {}

    def write(writer: StageWriter, name: str) -> StageFacts:
        while any(prompt.id not in finished for prompt in chunks[name]):
            piece = next(pieces)
            finished.update(zip((prompt.id for prompt in piece.prompts), piece.responses, strict=True))
        groups = tuple(finished.pop(prompt.id) for prompt in chunks[name])
        rollouts = _with_staleness(Rollouts(plan.round, tuple(chunks[name]), groups), plan)
        writer.table(f"responses/{name.removeprefix('sample.')}", rows.from_rollouts(rollouts))
        responses = [response for group in groups for response in group]
        return {
            "tokens/sampled": sum(len(response.tokens) for response in responses),
            "responses/sampled": len(responses),
        }

    done = 0
    with closing(pieces):
        for name, chunk in chunks.items():
            context.progress(plan.round, "sample", done, len(prompts), "prompts")
            yield context.ledger.commit(plan.round, name, partial(write, name=name))
            done += len(chunk)
    context.progress(plan.round, "sample", done, len(prompts), "prompts")


def _stream(
    context: RunContext, plan: RoundPlan, policies: PolicyRegistry, prompts: Sequence[Prompt]
) -> Generator[Rollouts]:
    """The responses to the prompts, in the order in which prompts are finished."""
    players = {role: policies.playing(plan, role) for role in plan.samplers}
    yield from context.sampler.stream(context.engine, prompts, players, round=plan.round, seed=context.seed)


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


@contextmanager
def scoring(
    context: RunContext, plan: RoundPlan, policies: PolicyRegistry, scored: list[StageRecord], prompts: int
) -> Iterator[Callable[[StageRecord], None]]:
    """Score the chunks that are passed to the yielded function, in order, and append their records to `scored`.

    While other chunks are sampled, if `context.scores_while_sampling` and the scorer does not need the engine; else at
    the end of the block. `prompts`: of all chunks.
    """
    asks = isinstance(context.scorer, AsksPolicy)
    players = {"start": context.start}
    if asks:
        players["policy"] = policies.playing(plan, "policy") if "policy" in plan.samplers else policies[plan.init]
    sampled = SimpleQueue[StageRecord | None]()

    def work() -> None:
        done = 0
        context.progress(plan.round, "score", done, prompts, "prompts")
        while (record := sampled.get()) is not None:
            scored.append(_score(context, plan, record, scored, players))
            done = min(prompts, done + context.prompts_per_commit)
            context.progress(plan.round, "score", done, prompts, "prompts")

    if asks or not context.scores_while_sampling:
        yield sampled.put
        sampled.put(None)
        work()
        return
    with in_thread(work, name="scoring") as check:

        def score(record: StageRecord) -> None:
            check()
            sampled.put(record)

        try:
            yield score
        finally:
            sampled.put(None)


def _score(
    context: RunContext,
    plan: RoundPlan,
    sampled: StageRecord,
    scored: Sequence[StageRecord],
    players: Mapping[str, Policy],
) -> StageRecord:
    """Score a chunk and commit its scores. `scored`: the records of the chunks before it."""
    table, index = context.ledger.table(plan.round, sampled.name), sampled.name.removeprefix("sample.")

    def write(writer: StageWriter) -> StageFacts:
        result = ask_policy.score(context, context.scorer, rows.to_rollouts(table.read()), players)
        counts = Counter(result.counts)
        for record in scored:
            counts.update({key: fact for key, fact in record.facts.items() if isinstance(fact, int)})
        check_silence(counts, context.alarms.silent_judge, slot="scorer")
        writer.table(f"scores/{index}", rows.from_scored(result))
        known = result.utility[~np.isnan(result.utility)]  # without abstentions
        return {**result.counts, "reward/sum": float(known.sum(dtype=np.float64)), "reward/count": known.size}

    return context.ledger.commit(plan.round, f"score.{index}", write)


def select(context: RunContext, plan: RoundPlan) -> StageRecord:
    """Select the pairs to train on, those of earlier rounds whose labels arrived in this one, and given ones."""

    def write(writer: StageWriter) -> StageFacts:
        responses, pairs, selections = Counter[str](), Counter[str](), list[Selection]()
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
            selections.append(selection)
        record = context.ledger.committed(plan.round, "sample")
        total = None if record is None else record.facts["responses/sampled"]
        assert responses.total() == total, f"{responses.total()} responses in buckets, {total} were sampled"
        buckets = {"responses": responses, "pairs": pairs}
        writer.text("buckets.json", json.dumps(buckets, indent=1))
        counts: dict[str, float] = {
            f"{kind}/{name}": number for kind, each in buckets.items() for name, number in each.items()
        }
        cycles = measure(np.concatenate([shard.wins for shard in shards])) if context.intransitive and shards else {}
        counts |= by_source.counts(shards, selections)
        late = _select_late(context, plan.round, writer)
        given = add_given(context, plan.round, writer, sum(len(each.pairs) for each in selections))
        return {**counts, **cycles, **late, **given}

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
