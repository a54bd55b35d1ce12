"""The stages learn and publish: from pairs to the next policy."""

from __future__ import annotations

import math
import time
from functools import partial

from rlhf_flow.protocols import TrainingRound
from rlhf_flow.stages.context import RunContext
from rlhf_flow.stages.policies import PolicyRegistry, average_folder, facts_of, training_round, used_from
from rlhf_flow.storage.store import StageFacts, StageRecord, StageWriter
from rlhf_flow.types import RoundPlan


def learn(context: RunContext, plan: RoundPlan, policies: PolicyRegistry) -> None:
    """Train on the round's pairs and publish the result. Two commits: `learn`, `publish`.

    If engines and learner can work at the same time, the learner writes its checkpoint during the next stages, which
    are committed after these two.
    """
    round, ledger, learner = plan.round, context.ledger, context.learner
    if ledger.committed(round, "publish") is not None:
        return
    training = training_round(context, plan, policies)
    steps = learner.steps(training)  # 0 if there are no pairs: the same weights are published
    writes_checkpoint = round % context.checkpoints.every == 0 or round == context.rounds
    metrics: StageFacts = {}
    began = time.perf_counter()
    if ledger.committed(round, "learn") is None:
        metrics = _train(context, plan, policies, training, steps=steps)
    else:  # killed between the two commits
        _restore(context, plan, policies, training, steps=steps)
    trained = time.perf_counter()
    policy = policies.publish(plan, changed=steps > 0)
    averages = {name: policies.average(name, round, decay) for name, decay in plan.averages.items()}
    published = time.perf_counter()

    def save_state(writer: StageWriter) -> StageFacts:
        if writes_checkpoint:
            writer.save("learner", learner.save_state)
        return metrics

    def save_policies(writer: StageWriter) -> StageFacts:
        if writes_checkpoint:
            context.save_policy(writer, round, policy if plan.extrapolation else None)
            for name, average in averages.items():
                writer.save(average_folder(name), partial(learner.save_policy, policy=average))
        return {"name": policy.name, **facts_of(policy), "averages": {k: facts_of(v) for k, v in averages.items()}}

    def commit() -> None:
        ledger.commit(round, "learn", save_state, spent=trained - began)
        ledger.commit(round, "publish", save_policies, spent=published - trained)
        policies.rebase(round)
        if writes_checkpoint:  # until now, a restarted rank could need the states saved inside earlier rounds
            _prune_steps(context, round)

    if context.disaggregated:
        ledger.commit_behind(round, ("learn", "publish"), commit)
    else:
        commit()


def _restore(
    context: RunContext, plan: RoundPlan, policies: PolicyRegistry, training: TrainingRound, *, steps: int
) -> None:
    """Bring the learner to the end of the committed stage `learn`."""
    policies.begin(plan.init)
    if context.ledger.has(plan.round, "learner"):
        context.learner.load_state(context.ledger.folder(plan.round) / "learner")
    elif steps:
        context.learner.update(training, 0, steps)


def _prune_steps(context: RunContext, round: int) -> None:
    """Delete the states that were saved inside the rounds since the last checkpoint."""
    for past in range(max(1, round - context.checkpoints.every + 1), round + 1):
        folder = context.ledger.folder(past)
        context.ledger.prune(past, sorted(path.name for path in folder.glob("learner.step*")))


def _train(
    context: RunContext, plan: RoundPlan, policies: PolicyRegistry, training: TrainingRound, *, steps: int
) -> StageFacts:
    """Take all steps of the round, with commits in between if `checkpoint.steps` is set. Resumes after the last one."""
    round, ledger, learner = plan.round, context.ledger, context.learner
    policies.begin(plan.init)
    policies.held = None  # from the first step on, the learner holds no published policy
    used, _ = used_from(round + 1, ledger, context.schedule)
    published = set() if steps else {plan.init}  # without pairs, the round publishes what it starts from
    policies.keep_only(used | published, averages=used | {round - 1})  # others need no copy of their weights
    stride = context.checkpoints.steps or max(1, math.ceil(steps / 10))  # without commits: ten updates of the progress
    metrics: list[StageFacts] = []
    boundaries = range(stride, steps, stride) if context.checkpoints.steps else range(0)
    committed = {last: record for last in boundaries if (record := ledger.committed(round, f"learn.step{last:06d}"))}
    done = max(committed, default=0)
    if committed:
        learner.load_state(ledger.folder(round) / f"learner.step{done:06d}")
        metrics += [record.facts for record in committed.values()]
    for first in range(done, steps, stride):
        last = min(first + stride, steps)
        context.progress(round, "learn", first, steps, "steps", _loss(metrics))
        if last in boundaries:
            metrics.append(_commit_steps(context, round, training, first, last).facts)
        else:
            metrics.append(learner.update(training, first, last))
    context.progress(round, "learn", steps, steps, "steps", _loss(metrics))
    return {"steps": steps, **_mean(metrics)}


def _commit_steps(context: RunContext, round: int, training: TrainingRound, first: int, last: int) -> StageRecord:
    def write(writer: StageWriter) -> StageFacts:
        metrics = context.learner.update(training, first, last)
        writer.save(f"learner.step{last:06d}", context.learner.save_state)
        return metrics

    return context.ledger.commit(round, f"learn.step{last:06d}", write)


def _loss(metrics: list[StageFacts]) -> str:
    """The loss of the latest steps, for the console."""
    loss = metrics[-1].get("loss") if metrics else None
    return f"loss {loss:.4f}" if isinstance(loss, int | float) else ""


def _mean(metrics: list[StageFacts]) -> dict[str, float]:
    """Means over all pairs, given means over some pairs each. `pairs`, their total weight, is summed."""
    sums: dict[str, float] = {}
    for facts in metrics:
        pairs = facts["pairs"]
        assert isinstance(pairs, int | float), f"pairs is {pairs!r}"
        for key, value in facts.items():
            assert isinstance(value, int | float), f"{key} is {value!r}"
            sums[key] = sums.get(key, 0.0) + (value if key == "pairs" else value * pairs)
    return {key: value if key == "pairs" else value / sums["pairs"] for key, value in sums.items()}
