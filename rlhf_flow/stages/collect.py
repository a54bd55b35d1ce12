"""Sample, score, select: from prompts to labelled pairs.

Each stage is committed in pieces that are a function of the round, and reads what the stage before it committed.
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
from rlhf_flow.stages import off_policy as mismatch
from rlhf_flow.stages import read_scores as judged
from rlhf_flow.stages.context import RunContext
from rlhf_flow.stages.policies import PolicyRegistry
from rlhf_flow.storage import parquet as rows
from rlhf_flow.storage.store import StageFacts, StageRecord, StageWriter
from rlhf_flow.types import Rollouts, RoundPlan


def collect(parts: RunContext, plan: RoundPlan, library: PolicyRegistry) -> None:
    """Sample and score the round's prompts, page by page of them, until the selector finds enough useful pairs."""
    if parts.ledger.entry(plan.round, "score") is not None:
        return
    sampled: list[StageRecord] = []
    scored: list[StageRecord] = []
    useful = 0
    for page in range(parts.pages):
        at = len(sampled)
        sampled += sample(parts, plan, library, page, at)
        scored += score(parts, plan, sampled[at:], at)
        if parts.enough is None or len(sampled) == at:
            break
        for entries in zip(sampled[at:], scored[at:], strict=True):
            useful += len(parts.selector.select(judged.of(parts, plan.round, *entries)).pairs)
        if useful >= parts.enough:
            break
    parts.ledger.commit_merged(plan.round, "sample", lambda: sampled)
    parts.ledger.commit_merged(plan.round, "score", lambda: scored)


def sample(parts: RunContext, plan: RoundPlan, library: PolicyRegistry, page: int, at: int) -> list[StageRecord]:
    """Responses of a page of prompts, drawn as the sampler says from the policies that the plan names.

    `at`: the number of its first piece.
    """
    prompts = parts.prompts.batch(plan.round, page)
    pieces = [prompts[start : start + parts.piece] for start in range(0, len(prompts), parts.piece)]

    def write(shelf: StageWriter, index: int) -> StageFacts:
        policies = {role: library.playing(plan, role) for role in plan.samplers}
        drawn = parts.sampler.sample(parts.engine, pieces[index], policies, round=plan.round, seed=parts.seed)
        rollouts = _dated(drawn, plan)
        shelf.table(f"responses/{at + index:05d}", rows.from_rollouts(rollouts))
        responses = [response for group in rollouts.responses for response in group]
        return {
            "tokens/sampled": sum(len(response.tokens) for response in responses),
            "responses/sampled": len(responses),
        }

    return _in_pieces(parts, plan.round, "sample", at, [len(piece) for piece in pieces], write, unit="prompts")


def _dated(rollouts: Rollouts, plan: RoundPlan) -> Rollouts:
    """With the staleness of each answer that the policy drew, alone or in a mixture."""
    if "policy" not in plan.samplers:
        return rollouts
    old = plan.round - 1 - plan.samplers["policy"]
    return replace(
        rollouts,
        responses=tuple(
            tuple(replace(one, staleness=old) if one.source in ("policy", "mixture") else one for one in group)
            for group in rollouts.responses
        ),
    )


def score(parts: RunContext, plan: RoundPlan, sampled: list[StageRecord], at: int) -> list[StageRecord]:
    """The judge's view of every response of a page, in the same pieces."""
    tables = [parts.ledger.table(plan.round, entry) for entry in sampled]

    counts, counted = Counter[str](), 0  # what the judge has counted, in the first `counted` pieces of the round

    def write(shelf: StageWriter, index: int) -> StageFacts:
        nonlocal counted
        for piece in range(counted, at + index):
            counts.update(_counts(parts.ledger.entry(plan.round, f"score.{piece:05d}")))
        counted = at + index
        scored = parts.scorer.score(rows.to_rollouts(tables[index].read()))
        check_silence(counts + Counter(scored.counts), parts.alarms.silent_judge, slot="scorer")
        shelf.table(f"scores/{at + index:05d}", rows.from_scored(scored))
        known = scored.utility[~np.isnan(scored.utility)]  # an abstention is no reward of zero
        return {**scored.counts, "reward/sum": float(known.sum(dtype=np.float64)), "reward/count": known.size}

    return _in_pieces(parts, plan.round, "score", at, [table.rows for table in tables], write, unit="answers")


def _counts(entry: StageRecord | None) -> dict[str, int]:
    """What the judge has counted in a piece."""
    facts = {} if entry is None else entry.facts
    return {key: fact for key, fact in facts.items() if key.startswith("judge/") and isinstance(fact, int)}


def select(parts: RunContext, plan: RoundPlan) -> StageRecord:
    """The pairs the learner will see; each response in one bucket, each considered pair in one.

    Behind them the pairs of earlier rounds whose labels arrived in this one.
    """

    def write(shelf: StageWriter) -> StageFacts:
        responses: dict[str, int] = {}
        pairs: dict[str, int] = {}
        off = mismatch.known(parts, plan.round)
        shards = [
            mismatch.excluded(parts, plan.round, shard, known=off) for shard in judged.in_round(parts, plan.round)
        ]
        for index, shard in enumerate(shards):
            selection = parts.selector.select(shard)
            shelf.table(f"pairs/{index:05d}", rows.from_selection(selection))
            for name, number in rows.count(selection.response_buckets).items():
                responses[name] = responses.get(name, 0) + number
            for name, number in selection.pair_counts.items():
                pairs[name] = pairs.get(name, 0) + number
        sampled = parts.ledger.entry(plan.round, "sample")
        total = None if sampled is None else sampled.facts["responses/sampled"]
        assert sum(responses.values()) == total, f"{sum(responses.values())} bucketed responses of {total}"
        buckets = {"responses": responses, "pairs": pairs}
        shelf.text("buckets.json", json.dumps(buckets, indent=1))
        counted = {f"{kind}/{name}": number for kind, counts in buckets.items() for name, number in counts.items()}
        cycles = measure(np.concatenate([shard.wins for shard in shards])) if parts.intransitive and shards else {}
        return {**counted, **cycles, **_late_pairs(parts, plan.round, shelf)}

    parts.progress(plan.round, "select", 0, 1, "rounds")
    entry = parts.ledger.commit(plan.round, "select", write)
    parts.progress(plan.round, "select", 1, 1, "rounds")
    return entry


def _late_pairs(parts: RunContext, round: int, shelf: StageWriter) -> StageFacts:
    """Their answers have had their bucket: in the round that sampled them."""
    late = judged.late_in(parts, round)
    number = 0
    for origin, shards in late.items():
        off = mismatch.known(parts, origin)
        for index, shard in enumerate(shards):
            selection = parts.selector.select(mismatch.excluded(parts, round, shard, known=off))
            shelf.table(f"pairs/late-{origin:05d}-{index:05d}", rows.from_selection(selection))
            number += len(selection.pairs)
    return {"late/pairs": number} if late else {}


def _in_pieces(
    parts: RunContext,
    round: int,
    stage: str,
    at: int,
    sizes: Sequence[int],
    write: Callable[..., StageFacts],
    *,
    unit: str,
) -> list[StageRecord]:
    """Commit a page of a stage piece by piece; `write(shelf, index=...)` makes one, of `sizes[index]` units."""
    entries = []
    for index in range(len(sizes)):
        parts.progress(round, stage, sum(sizes[:index]), sum(sizes), unit)
        entries.append(parts.ledger.commit(round, f"{stage}.{at + index:05d}", partial(write, index=index)))
    parts.progress(round, stage, sum(sizes), sum(sizes), unit)
    return entries
