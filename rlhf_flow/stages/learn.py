"""Anchor, learn, publish: from pairs to the next policy."""

from __future__ import annotations

import math

from rlhf_flow.stages.context import RunContext
from rlhf_flow.stages.policies import PolicyRegistry, averaged, facts_of, lesson_of
from rlhf_flow.storage.parquet import SIDES
from rlhf_flow.storage.store import StageFacts, StageRecord, StageWriter
from rlhf_flow.storage.tables import TrainingRound
from rlhf_flow.types import RoundPlan


def anchor(parts: RunContext, plan: RoundPlan, library: PolicyRegistry) -> StageRecord:
    """Log-probs under every anchor of the responses the learner will see: once, for every epoch and later round."""

    def write(shelf: StageWriter) -> StageFacts:
        lesson = lesson_of(parts, plan, library)
        known = lesson.anchors.read(["response", "policy"]).to_pylist() if lesson.anchors.shards else []
        have = {(row["response"], row["policy"]) for row in known}
        ids = _responses_in_pairs(lesson)
        scored = 0
        for name, round in sorted(plan.anchors.items()):
            policy = library[round]
            wanted = [response for response in ids if (response, policy.sha256) not in have]
            if not wanted:
                continue
            responses = [tables.responses for tables in lesson.tables]
            shelf.table(f"anchors/{name}", parts.learner.logps(responses, wanted, policy))
            have |= {(response, policy.sha256) for response in wanted}
            scored += len(wanted)
        return {"anchors/scored": scored}

    # The learner starts first: an anchor that is the very policy it starts from needs no second copy of the weights.
    if parts.ledger.entry(plan.round, "anchor") is None:
        library.begin(plan.init)
    parts.progress(plan.round, "anchor", 0, 1, "rounds")
    entry = parts.ledger.commit(plan.round, "anchor", write)
    parts.progress(plan.round, "anchor", 1, 1, "rounds")
    return entry


def learn(parts: RunContext, plan: RoundPlan, library: PolicyRegistry) -> StageRecord:
    """Teach the learner the round's lesson and publish what comes out. Two commits: `learn`, `publish`."""
    round, ledger, learner = plan.round, parts.ledger, parts.learner
    published = ledger.entry(round, "publish")
    if published is not None:
        return published
    lesson = lesson_of(parts, plan, library)
    steps = learner.steps(lesson)  # 0 where the round has no useful pairs: the same weights are published
    leaves_checkpoint = round % parts.keeping.every == 0 or round == parts.rounds

    def taught(shelf: StageWriter) -> StageFacts:
        metrics = _teach(parts, plan, library, lesson, steps=steps)
        if leaves_checkpoint:
            learner.save_state(shelf.folder("learner"))
        return metrics

    def publish(shelf: StageWriter) -> StageFacts:
        policy = library.publish(plan, changed=steps > 0)
        averages = {name: library.average(name, round, decay) for name, decay in plan.averages.items()}
        if leaves_checkpoint:
            parts.save_policy(shelf, round)
            for name, average in averages.items():
                learner.save_policy(shelf.folder(averaged(name)), average)
        return {"name": policy.name, **facts_of(policy), "averages": {k: facts_of(v) for k, v in averages.items()}}

    learned = ledger.entry(round, "learn")
    if learned is None:
        ledger.commit(round, "learn", taught)
    else:  # killed between the two commits: come back to where learning ended
        library.begin(plan.init)
        if ledger.has(round, "learner"):
            learner.load_state(ledger.folder(round) / "learner")
        elif steps:
            learner.update(lesson, 0, steps)
    published = ledger.commit(round, "publish", publish)
    library.rebase(round)
    if leaves_checkpoint:  # until then, ranks that die may be told to go on from a commit inside an earlier round
        for past in range(max(1, round - parts.keeping.every + 1), round + 1):
            ledger.prune(past, sorted(path.name for path in ledger.folder(past).glob("learner.step*")))
    return published


def _teach(
    parts: RunContext, plan: RoundPlan, library: PolicyRegistry, lesson: TrainingRound, *, steps: int
) -> StageFacts:
    """All steps of the lesson, with commits inside it where `checkpoint.steps` asks for them."""
    learner = parts.learner
    library.begin(plan.init)
    library.held = None  # from the first step on, what the learner holds has no name
    stride = parts.keeping.steps or _progress_stride(steps)
    metrics: list[StageFacts] = []
    for first in range(0, steps, stride):
        last = min(first + stride, steps)
        parts.progress(plan.round, "learn", first, steps, "steps", _latest(metrics))
        if parts.keeping.steps is None or last == steps:
            metrics.append(learner.update(lesson, first, last))
        else:
            metrics.append(_committed_steps(parts, plan.round, lesson, first, last).facts)
    parts.progress(plan.round, "learn", steps, steps, "steps", _latest(metrics))
    return {"steps": steps, **_mean(metrics)}


def _committed_steps(parts: RunContext, round: int, lesson: TrainingRound, first: int, last: int) -> StageRecord:
    name, folder = f"learn.step{last:06d}", f"learner.step{last:06d}"

    def write(shelf: StageWriter) -> StageFacts:
        metrics = parts.learner.update(lesson, first, last)
        parts.learner.save_state(shelf.folder(folder))
        return metrics

    committed = parts.ledger.entry(round, name)
    if committed is None:
        return parts.ledger.commit(round, name, write)
    following = parts.ledger.entry(round, f"learn.step{2 * last - first:06d}")
    if following is None:  # the last one that was committed: go on from here
        parts.learner.load_state(parts.ledger.folder(round) / folder)
    return committed


def _progress_stride(steps: int) -> int:
    """A learn stage is one call per tenth, so that the terminal has something to show."""
    return max(1, math.ceil(steps / 10))


def _latest(metrics: list[StageFacts]) -> str:
    """The loss of the latest steps, for the terminal."""
    loss = metrics[-1].get("loss") if metrics else None
    return f"loss {loss:.4f}" if isinstance(loss, int | float) else ""


def _mean(metrics: list[StageFacts]) -> dict[str, float]:
    """Means over all pairs, from means over some pairs each; of `pairs`, their total weight, the sum."""
    sums: dict[str, float] = {}
    for facts in metrics:
        pairs = facts["pairs"]
        assert isinstance(pairs, int | float), f"pairs is {pairs!r}"
        for key, value in facts.items():
            assert isinstance(value, int | float), f"{key} is {value!r}"
            sums[key] = sums.get(key, 0.0) + (value if key == "pairs" else value * pairs)
    return {key: value if key == "pairs" else value / sums["pairs"] for key, value in sums.items()}


def _responses_in_pairs(lesson: TrainingRound) -> list[str]:
    ids: dict[str, None] = {}
    for tables in lesson.tables:
        pairs = tables.read_pairs(list(SIDES))
        for side in SIDES:
            ids.update(dict.fromkeys(pairs[side].to_pylist()))
    return sorted(id for id in ids if id is not None)
