"""Close a round: its record, its line in metrics.jsonl, the best policy so far, and which checkpoints may go."""

from __future__ import annotations

import time

from rlhf_flow.metrics.alarms import PREFIX, of_judge, without_pairs
from rlhf_flow.protocols import Schedule
from rlhf_flow.stages.context import CheckpointPolicy, RunContext
from rlhf_flow.stages.policies import PolicyRegistry, averaged
from rlhf_flow.stages.update_reward import judge_of
from rlhf_flow.storage.store import STAGES, StageFacts, StageRecord, StageWriter, Store
from rlhf_flow.types import RoundRecord


def close(parts: RunContext, round: int, library: PolicyRegistry, *, began: float | None) -> None:
    """Commit the record of a round whose stages are all committed, and tell the observers.

    `began`: time.perf_counter() at the beginning of the round; None where an earlier start of the run did a part of it.
    """
    entries = {name: entry for name in STAGES if (entry := parts.ledger.entry(round, name)) is not None}
    seconds = {name: entry.seconds for name, entry in entries.items()}
    metrics = _metrics(entries) | {f"seconds/{name}": value for name, value in seconds.items()}
    plan: dict[str, object] = {"init": library.sha256(0)}
    if round > 0:
        chosen = parts.plan(round)
        plan = {
            "init": library.sha256(chosen.init),
            "samplers": {role: library.identity(chosen, role) for role in chosen.samplers},
            "anchors": {name: library.sha256(version) for name, version in chosen.anchors.items()},
            "publish_as": chosen.publish_as,
        }
        if parts.refreshing is not None:
            plan["scorer"] = judge_of(parts.refreshing, parts.ledger, round)
        if "policy" in chosen.samplers:
            metrics["staleness/max"] = round - 1 - chosen.samplers["policy"]
    metrics |= without_pairs(metrics, parts.alarms)
    if began is not None:
        metrics["seconds/round"] = time.perf_counter() - began
    metrics |= {f"{PREFIX}{alarm.name}": 1 for alarm in of_judge(metrics, parts.alarms)}
    record = RoundRecord(
        round=round,
        policy=library.sha256(round),
        plan=plan,
        metrics=metrics,
        seconds=seconds,
        files={path: sha for entry in entries.values() for path, sha in entry.files.items()},
    )
    parts.ledger.close_round(record)
    settle(parts.ledger, parts.schedule, parts.keeping, rounds=parts.rounds)
    parts.ledger.release(before=min(parts.memory.rounds(round + 1)))
    library.keep_only(_named(parts.ledger, parts.schedule)[0] | {round})
    for observer in parts.observers:
        observer.round(record)


def finish(parts: RunContext, library: PolicyRegistry) -> None:
    """The last round always leaves its policy: written now where the run was to go on when that round was learned."""
    last = parts.ledger.records[-1].round

    def write(shelf: StageWriter) -> StageFacts:
        library.begin(last)
        parts.save_policy(shelf, last)
        parts.learner.save_state(shelf.folder("learner"))
        return {"sha256": library.sha256(last)}

    if last > 0 and parts.ledger.durable and not parts.ledger.has(last, "policy"):
        parts.ledger.commit(last, "checkpoint", write)
        settle(parts.ledger, parts.schedule, parts.keeping, rounds=parts.rounds)


def settle(ledger: Store, schedule: Schedule, keeping: CheckpointPolicy, *, rounds: int) -> None:
    """Bring what is derived from the records up to date: best.json, final.json, which checkpoints stay.

    Also called when a run starts, for a run that was killed between a record and what follows from it.
    """
    if not ledger.records or not ledger.durable:
        return
    done = len(ledger.records) - 1
    best = _point(ledger, rounds=rounds)
    written = [round for round in range(1, done + 1) if ledger.has(round, "policy")]
    newest = written[-keeping.keep :]
    named, begun = _named(ledger, schedule)
    stay, learned = {*newest, best, done, *named}, {*newest, *begun}
    for round in range(1, done + 1):
        averages = [path.name for path in ledger.folder(round).glob(averaged("*"))]
        folders = [*((folder, stay) for folder in ("policy", *averages)), ("learner", learned)]
        ledger.prune(round, [folder for folder, needed in folders if round not in needed])


def _named(ledger: Store, schedule: Schedule) -> tuple[set[int], set[int]]:
    """The rounds whose policies the next two rounds use, and those that they start from.

    Two, for a half step is made of two; be they rounds of this run or of a later extension.
    """
    done = len(ledger.records)
    plans = [schedule.at(round, ledger.records) for round in (done, done + 1)]
    begun = {plan.init for plan in plans}
    named = {version for plan in plans for version in (*plan.samplers.values(), *plan.anchors.values())}
    return {version for version in named | begun if version < done}, {version for version in begun if version < done}


def _metrics(entries: dict[str, StageRecord]) -> dict[str, float]:
    """The flat metrics of a round. What was not measured is absent."""
    facts: dict[str, object] = {}
    for name in STAGES:
        if name in entries and name not in ("anchor", "publish"):
            facts |= _under(name, entries[name].facts)
    total, rewarded = facts.pop("reward/sum", None), facts.pop("reward/count", None)
    metrics = {key: value for key, value in facts.items() if isinstance(value, int | float)}
    if isinstance(total, int | float) and isinstance(rewarded, int | float) and rewarded:
        metrics["reward/mean"] = total / rewarded
    return metrics


def _point(ledger: Store, *, rounds: int) -> int:
    """Write best.json, and final.json after the last round; return the round of the best policy that is on disk."""
    kept = [record for record in ledger.records if record.round == 0 or ledger.has(record.round, "policy")]
    best = max(kept, key=_merit)
    last = ledger.records[-1]
    ledger.point("best", _pointer(ledger, best))
    if last.round >= rounds and ledger.has(last.round, "policy"):
        ledger.point("final", _pointer(ledger, last))
    return best.round


def _merit(record: RoundRecord) -> float:
    """How good what the round published is: a policy by its win rate, a reward model by its accuracy."""
    measured = [record.metrics[key] for key in ("eval/win_rate", "eval/accuracy") if key in record.metrics]
    return measured[0] if measured else float("-inf")


def _pointer(ledger: Store, record: RoundRecord) -> StageFacts:
    folder = ledger.folder(record.round).relative_to(ledger.root) / "policy"
    return {
        "round": record.round,
        "policy": str(folder) if record.round else None,  # null: the start itself
        "sha256": record.policy,
        "metrics": dict(record.metrics),
    }


def _under(stage: str, facts: StageFacts) -> StageFacts:
    """The facts of the stages that train, which say the same of different learners, under names of their own."""
    prefix = {"learn": "train/", "refresh": "refresh/"}.get(stage, "")
    return {f"{prefix}{key}": value for key, value in facts.items()}
