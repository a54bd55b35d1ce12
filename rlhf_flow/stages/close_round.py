"""Closes a round: its record and metrics, the pointers to the best and final policy, and pruning of checkpoints."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping, Sequence

from rlhf_flow.metrics.alarms import PREFIX, of_judge, without_pairs
from rlhf_flow.protocols import Schedule
from rlhf_flow.stages.context import CheckpointPolicy, RunContext
from rlhf_flow.stages.policies import PolicyRegistry, average_folder, used_from
from rlhf_flow.stages.update_reward import scorer_sha256
from rlhf_flow.storage.store import STAGES, StageFacts, StageRecord, StageWriter, Store
from rlhf_flow.types import RoundRecord

FACT_PREFIXES = {"learn": "train/", "refresh": "refresh/"}  # both stages train, and name their metrics alike


def close_round(context: RunContext, round: int, policies: PolicyRegistry, *, began: float | None) -> None:
    """Commit the record of a round whose stages are all committed, and tell the observers.

    `began`: time.perf_counter() at the beginning of the round; None if an earlier start of the run did part of it.
    """
    ledger = context.ledger
    stages = {name: stage for name in STAGES if (stage := ledger.committed(round, name)) is not None}
    seconds = {name: record.seconds for name, record in stages.items()}
    metrics = _metrics(stages) | {f"seconds/{name}": value for name, value in seconds.items()}
    plan: dict[str, object] = {"init": policies.sha256(0)}
    if round > 0:
        chosen = context.plan(round)
        plan = {
            "init": policies.sha256(chosen.init),
            "samplers": {role: policies.identity(chosen, role) for role in chosen.samplers},
            "anchors": {name: policies.sha256(version) for name, version in chosen.anchors.items()},
            "publish_as": chosen.publish_as,
        }
        if context.reward_updates is not None:
            plan["scorer"] = scorer_sha256(context.reward_updates, ledger, round)
        if "policy" in chosen.samplers:
            metrics["staleness/max"] = round - 1 - chosen.samplers["policy"]
    metrics |= without_pairs(metrics, context.alarms)
    if began is not None:
        metrics["seconds/round"] = time.perf_counter() - began
    metrics |= {f"{PREFIX}{alarm.name}": 1 for alarm in of_judge(metrics, context.alarms)}
    record = RoundRecord(
        round=round,
        policy=policies.sha256(round),
        plan=plan,
        metrics=metrics,
        seconds=seconds,
        files={path: sha for one in stages.values() for path, sha in one.files.items()},
    )
    ledger.close_round(record)
    prune_checkpoints(ledger, context.schedule, context.checkpoints, rounds=context.rounds)
    ledger.release(before=min(context.replay.rounds(round + 1)))
    policies.keep_only(used_from(len(ledger.records), ledger, context.schedule)[0] | {round})
    for observer in context.observers:
        observer.round(record)


def save_last_policy(context: RunContext, policies: PolicyRegistry) -> None:
    """Write a checkpoint of the last round if it has none, as when a run ends earlier than first planned."""
    last = context.ledger.records[-1].round

    def write(writer: StageWriter) -> StageFacts:
        policies.begin(last)
        context.save_policy(writer, last, policies[last] if policies[last].stateless else None)
        writer.save("learner", context.learner.save_state)
        return {"sha256": policies.sha256(last)}

    if last > 0 and context.ledger.durable and not context.ledger.has(last, "policy"):
        context.ledger.commit(last, "checkpoint", write)
        prune_checkpoints(context.ledger, context.schedule, context.checkpoints, rounds=context.rounds)


def prune_checkpoints(ledger: Store, schedule: Schedule, checkpoints: CheckpointPolicy, *, rounds: int) -> None:
    """Update best.json and final.json, and delete the checkpoints that are no longer needed.

    Also called when a run starts, since it may have been killed between a record and this.
    """
    if not ledger.records or not ledger.durable:
        return
    done = len(ledger.records) - 1
    best = _write_pointers(ledger, rounds=rounds)
    newest = [round for round in range(1, done + 1) if ledger.has(round, "policy")][-checkpoints.keep :]
    used, started_from = used_from(len(ledger.records), ledger, schedule)
    policies, learners = {*newest, best, done, *used}, {*newest, *started_from}
    for round in range(1, done + 1):
        averages = [path.name for path in ledger.folder(round).glob(average_folder("*"))]
        unneeded = [] if round in policies else ["policy", *averages]
        ledger.prune(round, unneeded if round in learners else [*unneeded, "learner"])


def _metrics(stages: dict[str, StageRecord]) -> dict[str, float]:
    """The flat metrics of a round. What was not measured is absent."""
    facts: dict[str, object] = {}
    for name in STAGES:
        if name in stages and name not in ("anchor", "publish"):
            facts |= {f"{FACT_PREFIXES.get(name, '')}{key}": value for key, value in stages[name].facts.items()}
    total, rewarded = facts.pop("reward/sum", None), facts.pop("reward/count", None)
    metrics = {key: value for key, value in facts.items() if isinstance(value, int | float)}
    if isinstance(total, int | float) and isinstance(rewarded, int | float) and rewarded:
        metrics["reward/mean"] = total / rewarded
    return metrics


def _write_pointers(ledger: Store, *, rounds: int) -> int:
    """Write best.json, and after the last round final.json, and average.json if the schedule averages.

    Returns the round of the best policy on disk.
    """
    kept = [record for record in ledger.records if record.round == 0 or ledger.has(record.round, "policy")]
    best = max(kept, key=_merit(kept))
    last = ledger.records[-1]
    ledger.point("best", _pointer(ledger, best))
    if last.round >= rounds and ledger.has(last.round, "policy"):
        ledger.point("final", _pointer(ledger, last))
        _point_to_average(ledger, last.round)
    return best.round


MERITS = {  # of a policy, or a reward model -> its sign
    "eval/gap": -1,
    "eval/win_rate": 1,
    "eval/accuracy": 1,
    "eval/loss": -1,
}


def _merit(records: Sequence[RoundRecord]) -> Callable[[RoundRecord], float]:
    """What a policy is judged by: the first of `MERITS` that is measured; -inf without any."""
    measured = [key for key in MERITS if any(key in record.metrics for record in records)]

    def merit(record: RoundRecord) -> float:
        key = measured[0] if measured else ""
        return MERITS[key] * record.metrics[key] if key in record.metrics else -math.inf

    return merit


def _point_to_average(ledger: Store, round: int) -> None:
    """Write average.json, if the round published a moving average of policies."""
    published = ledger.committed(round, "publish")
    averages = {} if published is None else published.facts.get("averages")
    if isinstance(averages, Mapping) and "ema" in averages and ledger.has(round, average_folder("ema")):
        folder = ledger.folder(round).relative_to(ledger.root) / average_folder("ema")
        ledger.point("average", {"round": round, "policy": str(folder), "sha256": averages["ema"]["sha256"]})


def _pointer(ledger: Store, record: RoundRecord) -> StageFacts:
    folder = ledger.folder(record.round).relative_to(ledger.root) / "policy"
    return {
        "round": record.round,
        "policy": str(folder) if record.round else None,  # null: the start
        "sha256": record.policy,
        "metrics": dict(record.metrics),
    }
