"""`PolicyRegistry`: the policies of a run by round. `training_round`: the training data of a round.

Training data is a pure function of committed files, so a round that wrote no checkpoint can be trained again and gives
the same policy.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np

from rlhf_flow.protocols import RoundTables, Schedule, TrainingRound
from rlhf_flow.seeds import derive
from rlhf_flow.stages.context import RunContext
from rlhf_flow.stages.read_scores import origins
from rlhf_flow.storage.store import StageFacts, StageRecord, Store
from rlhf_flow.storage.tables import Shard, Table
from rlhf_flow.types import Policy, Probe, RoundPlan
from rlhf_flow.weights.fingerprint import LEAF
from rlhf_flow.weights.publish import HeldByLearner
from rlhf_flow.weights.source import published

PAIRS, GIVEN = "pairs/", "given/"  # what the stage select writes: pairs, and responses of given ones


class PolicyRegistry:
    """The policies of a run, by the round that published them: from memory, from disk, or by training again."""

    def __init__(self, context: RunContext) -> None:
        self.context = context
        self.policies: dict[int, Policy] = {0: context.start}
        self.averages: dict[tuple[str, int], Policy] = {}
        self.held: int | None = None  # the round whose weights and optimizer state the learner holds

    def sha256(self, round: int) -> str:
        """The sha256 of a published policy. Does not load its weights."""
        return self.context.start.sha256 if round == 0 else str(self._published(round).facts["sha256"])

    def identity(self, plan: RoundPlan, role: str) -> str:
        """The sha256 of the policy in a sampler's role."""
        version = plan.samplers[role]
        if role not in plan.averages or version == 0:
            return self.sha256(version)
        return str(self._average_facts(role, version)["sha256"])

    def __getitem__(self, round: int) -> Policy:
        if round not in self.policies:
            self.policies[round] = self._from_disk(round) or self._train_again(round)
        return self.policies[round]

    def playing(self, plan: RoundPlan, role: str) -> Policy:
        """The policy in a sampler's role."""
        version = plan.samplers[role]
        return self.average(role, version, plan.averages[role]) if role in plan.averages else self[version]

    def average(self, name: str, round: int, decay: float) -> Policy:
        """decay * (the average of the round before) + (1 - decay) * (the round's policy), beginning with the start."""
        if round == 0:
            return self.context.start
        if (name, round) not in self.averages:
            self.averages[name, round] = self._average_from_disk(name, round) or self.context.learner.average(
                name, round, [(self.average(name, round - 1, decay), decay), (self[round], 1 - decay)]
            )
        return self.averages[name, round]

    def begin(self, round: int) -> None:
        """Make the learner start from a published policy, with the optimizer state of that round."""
        policy = self[round]
        on_disk = policy.state is not None and self.context.ledger.has(round, "learner")
        in_memory_only = round > 0 and not on_disk and not policy.stateless
        if in_memory_only and self.held != round:  # the learner has overwritten that optimizer state
            self.policies[round] = policy = self._train_again(round)
        self.context.learner.start(policy)
        self.held = round

    def publish(self, plan: RoundPlan, *, changed: bool) -> Policy:
        """Publish what the learner holds as the round's policy; if nothing changed, the policy it started from."""
        if changed:
            policy = self.context.learner.publish(plan.publish_as, plan.round)
        else:
            policy = replace(self[plan.init], name=plan.publish_as, round=plan.round)
        self.held = plan.round
        if plan.extrapolation and changed:
            policy, self.held = self._beyond(plan, policy), None
        self.policies[plan.round] = policy
        return policy

    def _beyond(self, plan: RoundPlan, trained: Policy) -> Policy:
        """What was trained, and `plan.extrapolation` times its change since the round before. It has no moments."""
        (name, decay), alpha = next(iter(plan.averages.items())), plan.extrapolation
        before = self.average(name, plan.round - 1, decay)
        terms = [(trained, 1 + alpha), (before, -alpha)]
        return replace(self.context.learner.average(plan.publish_as, plan.round, terms), stateless=True)

    def rebase(self, round: int) -> None:
        """Make the learner start from the round's checkpoint, if there is one.

        It holds these weights already. But a rank that is restarted replays all calls since the learner last started
        from a checkpoint, so starting here keeps that log short, and independent of checkpoints that get pruned.
        """
        if self.policies[round].stateless:
            return
        if self.context.ledger.has(round, "learner"):
            policy = replace(self.policies[round], state=self.context.ledger.folder(round) / "learner")
            if isinstance(policy.weights, HeldByLearner) and (on_disk := self._from_disk(round)) is not None:
                policy = on_disk
            self.policies[round] = policy
            self.begin(round)

    def keep_only(self, rounds: set[int], *, averages: set[int] | None = None) -> None:
        """Drop the policies and averages of other rounds. `averages`: the rounds of these, if others."""
        averages = rounds if averages is None else averages
        self.policies = {round: policy for round, policy in self.policies.items() if round in rounds | {0}}
        self.averages = {key: policy for key, policy in self.averages.items() if key[1] in averages}

    def _published(self, round: int) -> StageRecord:
        record = self.context.ledger.committed(round, "publish")
        assert record is not None, f"round {round} has published nothing"
        return record

    def _average_facts(self, name: str, round: int) -> Mapping[str, object]:
        averages = self._published(round).facts["averages"]
        assert isinstance(averages, Mapping)
        facts: Mapping[str, object] = averages[name]
        return facts

    def _from_disk(self, round: int) -> Policy | None:
        ledger = self.context.ledger
        if not ledger.has(round, "policy"):
            return None
        facts, beyond = self._published(round).facts, bool(self.context.plan(round).extrapolation)
        state = ledger.folder(round) / "learner" if ledger.has(round, "learner") and not beyond else None
        policy = self._load(round, "policy", facts, name=str(facts["name"]), state=state)
        return replace(policy, stateless=beyond)

    def _average_from_disk(self, name: str, round: int) -> Policy | None:
        if not self.context.ledger.has(round, average_folder(name)):
            return None
        return self._load(round, average_folder(name), self._average_facts(name, round), name=name)

    def _load(
        self, round: int, folder: str, facts: Mapping[str, object], *, name: str, state: Path | None = None
    ) -> Policy:
        path = self.context.ledger.folder(round) / folder
        probe = facts["probe"]
        return Policy(
            name=name,
            round=round,
            sha256=str(facts["sha256"]),
            weights=published(path, self.context.start, trust_remote_code=self.context.trust_remote_code),
            probe=_probe(probe) if isinstance(probe, Mapping) else None,
            state=state,
        )

    def _train_again(self, round: int) -> Policy:
        plan = self.context.plan(round)
        training = training_round(self.context, plan, self)
        self.begin(plan.init)
        self.context.progress(round, "learn again", 0, 1, "rounds")
        steps = self.context.learner.steps(training)
        if steps:
            self.context.learner.update(training, 0, steps)
        self.context.progress(round, "learn again", 1, 1, "rounds")
        policy = self.publish(plan, changed=steps > 0)
        if "leaf" not in self._published(round).facts:
            raise RuntimeError(
                f"round {round} wrote no checkpoint, and version 0.1 published it with another hash, so that training "
                "it again cannot be verified. Fix: resume with version 0.1, or start another run."
            )
        if policy.sha256 != self.sha256(round):
            raise RuntimeError(
                f"round {round} wrote no checkpoint, and training it again gave other weights ({policy.sha256[:12]}…) "
                f"than it published ({self.sha256(round)[:12]}…): device, ranks or threads changed. "
                "Fix: resume on the same hardware, or start with checkpoint.every=1 if a run moves between machines."
            )
        return policy


def used_from(round: int, ledger: Store, schedule: Schedule) -> tuple[set[int], set[int]]:
    """The earlier rounds whose policies a round and the one after it use, and those that they start from.

    Two rounds, since some schedules make one step of two. They may belong to a later extension of the run.
    """
    plans = [schedule.at(each, ledger.records[:each]) for each in (round, round + 1)]
    started_from = {plan.init for plan in plans if plan.init < round}
    used = {version for plan in plans for version in (*plan.samplers.values(), *plan.anchors.values())}
    return {version for version in used if version < round} | started_from, started_from


def training_round(context: RunContext, plan: RoundPlan, policies: PolicyRegistry) -> TrainingRound:
    """The pairs of the replayed rounds, with the log-probs of the round's anchors."""
    tables, anchors = [], list[Shard]()
    present = context.ledger.table(plan.round, "select", PAIRS).rows
    for past, share in context.replay.rounds(plan.round).items():
        pairs = context.ledger.table(past, "select", PAIRS)
        most = share if math.isinf(share) else share * present  # inf * 0 is NaN
        kept = _subsample(pairs.rows, most, seed=derive(context.seed, "replay", plan.round, past))
        tables.append(RoundTables(past, responses_of(context.ledger, past), pairs, kept))
    for past in range(tables[0].round, plan.round + 1):
        if context.ledger.committed(past, "anchor") is not None:
            anchors += context.ledger.table(past, "anchor").shards
    return TrainingRound(
        round=plan.round,
        rounds=context.rounds,
        seed=context.seed,
        tables=tuple(tables),
        anchors=Table(tuple(anchors)),
        roles={name: policies.sha256(round) for name, round in plan.anchors.items()}
        | {name: policy.sha256 for name, policy in context.anchor_policies.items()},
        objective=context.objective.at(plan.round),
    )


def responses_of(ledger: Store, round: int) -> Table:
    """The responses of a round, of the earlier rounds whose labels arrived in it, and given ones."""
    late = ledger.committed(round, "late")
    rounds = (round, *([] if late is None else origins(late)))
    sampled = (shard for one in rounds for shard in ledger.table(one, "sample").shards)
    return Table((*sampled, *ledger.table(round, "select", GIVEN).shards))


def _subsample(rows: int, most: float, *, seed: int) -> tuple[int, ...] | None:
    """At most `most` of the rows, drawn without replacement, in order. None: all."""
    if rows <= most:
        return None
    return tuple(sorted(np.random.default_rng(seed).permutation(rows)[: int(most)].tolist()))


def average_folder(name: str) -> str:
    """The folder of an average, next to the round's policy."""
    return f"average-{name}"


def facts_of(policy: Policy) -> StageFacts:
    """What identifies a policy. `leaf`: of its hash; version 0.1 hashed weights without leaves."""
    return {"sha256": policy.sha256, "leaf": LEAF, "probe": None if policy.probe is None else asdict(policy.probe)}


def _probe(facts: Mapping[str, object]) -> Probe:
    tokens, prompt, logps = facts["tokens"], facts["prompt"], facts["logps"]
    assert isinstance(tokens, list) and isinstance(prompt, int) and isinstance(logps, list)
    return Probe(tokens=tuple(tokens), prompt=prompt, logps=tuple(logps))
