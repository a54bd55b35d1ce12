"""The policies of a run by the round that published them, and what each round teaches.

A lesson is a pure function of committed files. So a round that left no checkpoint can be learned again from what it
recorded, and its policy comes out the same.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, replace

import numpy as np

from rlhf_flow.seeds import derive
from rlhf_flow.stages import read_scores as judged
from rlhf_flow.stages.context import RunContext
from rlhf_flow.storage.store import StageFacts, StageRecord
from rlhf_flow.storage.tables import RoundTables, Shard, Table, TrainingRound
from rlhf_flow.types import Policy, Probe, RoundPlan
from rlhf_flow.weights.source import published


class PolicyRegistry:
    """The policies of a run, by the round that published them: from memory, from disk, or learned once more."""

    def __init__(self, parts: RunContext) -> None:
        self.parts = parts
        self.policies: dict[int, Policy] = {0: parts.start}
        self.averages: dict[tuple[str, int], Policy] = {}
        self.held: int | None = None  # the round whose weights and optimizer state the learner holds

    def sha256(self, round: int) -> str:
        """The identity of a published policy; its weights need not be at hand."""
        return self.parts.start.sha256 if round == 0 else str(self._published(round).facts["sha256"])

    def identity(self, plan: RoundPlan, role: str) -> str:
        """The identity of who plays a sampler's role in a round."""
        version = plan.samplers[role]
        if role not in plan.averages or version == 0:
            return self.sha256(version)
        facts = self._published(version).facts["averages"]
        assert isinstance(facts, Mapping)
        return str(facts[role]["sha256"])

    def __getitem__(self, round: int) -> Policy:
        if round not in self.policies:
            self.policies[round] = self._from_disk(round) or self._learned_again(round)
        return self.policies[round]

    def playing(self, plan: RoundPlan, role: str) -> Policy:
        """Who plays a sampler's role in a round."""
        version = plan.samplers[role]
        return self.average(role, version, plan.averages[role]) if role in plan.averages else self[version]

    def average(self, name: str, round: int, decay: float) -> Policy:
        """decay * (the average of the round before) + (1 - decay) * (the round's policy), from the start."""
        if round == 0:
            return self.parts.start
        if (name, round) not in self.averages:
            self.averages[name, round] = self._average_on_disk(name, round) or self.parts.learner.average(
                name, round, [(self.average(name, round - 1, decay), decay), (self[round], 1 - decay)]
            )
        return self.averages[name, round]

    def begin(self, round: int) -> None:
        """Let the learner start from a published policy, with the optimizer state that was published with it."""
        policy = self[round]
        kept = policy.state is not None and self.parts.ledger.has(round, "learner")
        in_memory_only = round > 0 and not kept and not policy.stateless
        if in_memory_only and self.held != round:  # the learner has moved on, and its moments with it
            self.policies[round] = policy = self._learned_again(round)
        self.parts.learner.start(policy)
        self.held = round

    def publish(self, plan: RoundPlan, *, changed: bool) -> Policy:
        """Take what the learner holds as the round's policy: the very one it started from where nothing was learned."""
        if changed:
            policy = self.parts.learner.publish(plan.publish_as, plan.round)
        else:
            policy = replace(self[plan.init], name=plan.publish_as, round=plan.round)
        self.policies[plan.round] = policy
        self.held = plan.round
        return policy

    def rebase(self, round: int) -> None:
        """Let the learner go on from the checkpoint that the round has committed, if it has.

        It holds these weights and moments already. But ranks that die later are told again what their learner was told
        since it last started from a checkpoint: without this, since the run began, and from one that may be gone.
        """
        if self.parts.ledger.has(round, "learner"):
            self.policies[round] = replace(self.policies[round], state=self.parts.ledger.folder(round) / "learner")
            self.begin(round)

    def keep_only(self, rounds: set[int]) -> None:
        """Let go of weights that no coming round names."""
        self.policies = {round: policy for round, policy in self.policies.items() if round in rounds | {0}}
        self.averages = {key: policy for key, policy in self.averages.items() if key[1] in rounds}

    def _published(self, round: int) -> StageRecord:
        entry = self.parts.ledger.entry(round, "publish")
        assert entry is not None, f"round {round} has published nothing yet"
        return entry

    def _from_disk(self, round: int) -> Policy | None:
        ledger, trust = self.parts.ledger, self.parts.trust_remote_code
        if not ledger.has(round, "policy"):
            return None
        facts = self._published(round).facts
        return Policy(
            name=str(facts["name"]),
            round=round,
            sha256=str(facts["sha256"]),
            weights=published(ledger.folder(round) / "policy", self.parts.start, trust_remote_code=trust),
            probe=_probe(facts["probe"]),
            state=ledger.folder(round) / "learner" if ledger.has(round, "learner") else None,
        )

    def _average_on_disk(self, name: str, round: int) -> Policy | None:
        ledger, trust = self.parts.ledger, self.parts.trust_remote_code
        if not ledger.has(round, averaged(name)):
            return None
        facts = self._published(round).facts["averages"]
        assert isinstance(facts, Mapping)
        return Policy(
            name=name,
            round=round,
            sha256=str(facts[name]["sha256"]),
            weights=published(ledger.folder(round) / averaged(name), self.parts.start, trust_remote_code=trust),
            probe=_probe(facts[name]["probe"]),
        )

    def _learned_again(self, round: int) -> Policy:
        plan = self.parts.plan(round)
        lesson = lesson_of(self.parts, plan, self)
        self.begin(plan.init)
        self.parts.progress(round, "learn again", 0, 1, "rounds")
        steps = self.parts.learner.steps(lesson)
        if steps:
            self.parts.learner.update(lesson, 0, steps)
        self.parts.progress(round, "learn again", 1, 1, "rounds")
        policy = self.publish(plan, changed=steps > 0)
        if policy.sha256 != self.sha256(round):
            raise RuntimeError(
                f"round {round} left no checkpoint, and learning it again gave other weights ({policy.sha256[:12]}…) "
                f"than it published ({self.sha256(round)[:12]}…): the device, the ranks or the threads are not what "
                "they were. Go on under the same ones, or use checkpoint.every=1 for runs that move between machines."
            )
        return policy


def lesson_of(parts: RunContext, plan: RoundPlan, library: PolicyRegistry) -> TrainingRound:
    """What the round teaches: the pairs of the rounds in memory, with the log-probs of the round's anchors."""
    tables, anchors = [], Table(())
    present = _pairs(parts, plan.round).rows
    for past, share in parts.memory.rounds(plan.round).items():
        pairs = _pairs(parts, past)
        most = share if math.isinf(share) else share * present  # infinity times nothing is no number
        kept = _some(pairs.rows, most, seed=derive(parts.seed, "replay", plan.round, past))
        tables.append(RoundTables(past, _responses(parts, past), pairs, kept))
    for past in range(tables[0].round, plan.round + 1):
        anchored = parts.ledger.entry(past, "anchor")
        if anchored is not None:
            anchors = Table((*anchors.shards, *parts.ledger.table(past, anchored).shards))
    return TrainingRound(
        round=plan.round,
        rounds=parts.rounds,
        seed=parts.seed,
        tables=tuple(tables),
        anchors=anchors,
        roles={name: library.sha256(round) for name, round in plan.anchors.items()},
        objective=parts.objective.at(plan.round),
    )


def _responses(parts: RunContext, round: int) -> Table:
    """Of the round, and of the earlier ones whose labels arrived in it."""
    late = parts.ledger.entry(round, "late")
    shards: list[Shard] = []
    for sampled_in in (round, *([] if late is None else judged.origins(late))):
        sampled = parts.ledger.entry(sampled_in, "sample")
        assert sampled is not None, f"round {sampled_in} has no responses"
        shards += parts.ledger.table(sampled_in, sampled).shards
    return Table(tuple(shards))


def _pairs(parts: RunContext, round: int) -> Table:
    selected = parts.ledger.entry(round, "select")
    assert selected is not None, f"round {round} has no pairs"
    return parts.ledger.table(round, selected)


def _some(rows: int, most: float, *, seed: int) -> tuple[int, ...] | None:
    """Which rows are kept where they are more than `most`: drawn without replacement, in their order. None: all."""
    if rows <= most:
        return None
    return tuple(sorted(np.random.default_rng(seed).permutation(rows)[: int(most)].tolist()))


def averaged(name: str) -> str:
    """The folder of an average beside the round's policy."""
    return f"average-{name}"


def facts_of(policy: Policy) -> StageFacts:
    return {"sha256": policy.sha256, "probe": None if policy.probe is None else asdict(policy.probe)}


def _probe(facts: object) -> Probe | None:
    if facts is None:
        return None
    assert isinstance(facts, Mapping)
    return Probe(tokens=tuple(facts["tokens"]), prompt=facts["prompt"], logps=tuple(facts["logps"]))
