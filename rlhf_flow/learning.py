"""Anchor, learn, publish: from pairs to the next policy, and the same once more where a resume needs it.

A lesson is a pure function of committed files. So a round that left no checkpoint can be learned again from what it
recorded, and its policy comes out the same.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, replace
from pathlib import Path

from rlhf_flow.parts import Parts
from rlhf_flow.store import Entry, Facts, write_table
from rlhf_flow.types import Lesson, Plan, Policy, Probe, RoundTables, Table
from rlhf_flow.weights import Checkpoint


class Library:
    """The policies of a run, by the round that published them: from memory, from disk, or learned once more."""

    def __init__(self, parts: Parts) -> None:
        self.parts = parts
        self.policies: dict[int, Policy] = {0: parts.start}
        self.held: int | None = None  # the round whose weights and optimizer state the learner holds

    def sha256(self, round: int) -> str:
        """The identity of a published policy; its weights need not be at hand."""
        return self.parts.start.sha256 if round == 0 else str(self._published(round).facts["sha256"])

    def __getitem__(self, round: int) -> Policy:
        if round not in self.policies:
            self.policies[round] = self._from_disk(round) or self._learned_again(round)
        return self.policies[round]

    def begin(self, round: int) -> None:
        """Let the learner start from a published policy, with the optimizer state that was published with it."""
        policy = self[round]
        in_memory_only = round > 0 and policy.state is None
        if in_memory_only and self.held != round:  # the learner has moved on, and its moments with it
            self.policies[round] = policy = self._learned_again(round)
        self.parts.learner.start(policy)
        self.held = round

    def publish(self, plan: Plan, *, changed: bool) -> Policy:
        """Take what the learner holds as the round's policy: the very one it started from where nothing was learned."""
        if changed:
            policy = self.parts.learner.publish(plan.publish_as, plan.round)
        else:
            policy = replace(self[plan.init], name=plan.publish_as, round=plan.round)
        self.policies[plan.round] = policy
        self.held = plan.round
        return policy

    def keep_only(self, rounds: set[int]) -> None:
        """Let go of weights that no coming round names."""
        self.policies = {round: policy for round, policy in self.policies.items() if round in rounds | {0}}

    def _published(self, round: int) -> Entry:
        entry = self.parts.ledger.entry(round, "publish")
        assert entry is not None, f"round {round} has published nothing yet"
        return entry

    def _from_disk(self, round: int) -> Policy | None:
        ledger = self.parts.ledger
        if not ledger.has(round, "policy"):
            return None
        facts = self._published(round).facts
        return Policy(
            name=str(facts["name"]),
            round=round,
            sha256=str(facts["sha256"]),
            weights=Checkpoint(ledger.folder(round) / "policy", self.parts.trust_remote_code),
            probe=_probe(facts["probe"]),
            state=ledger.folder(round) / "learner" if ledger.has(round, "learner") else None,
        )

    def _learned_again(self, round: int) -> Policy:
        plan = self.parts.schedule.at(round, self.parts.ledger.records[:round])
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


def lesson_of(parts: Parts, plan: Plan, library: Library) -> Lesson:
    """What the round teaches: the pairs of the rounds in memory, with the log-probs of the round's anchors."""
    tables, anchors = [], Table(())
    for past in parts.memory.rounds(plan.round):
        sampled, selected = (parts.ledger.entry(past, stage) for stage in ("sample", "select"))
        assert sampled is not None, f"round {past} has no responses"
        assert selected is not None, f"round {past} has no pairs"
        tables.append(RoundTables(past, parts.ledger.table(past, sampled), parts.ledger.table(past, selected)))
    for past in range(min(parts.memory.rounds(plan.round)), plan.round + 1):
        anchored = parts.ledger.entry(past, "anchor")
        if anchored is not None:
            anchors = Table((*anchors.shards, *parts.ledger.table(past, anchored).shards))
    return Lesson(
        round=plan.round,
        rounds=parts.rounds,
        seed=parts.seed,
        tables=tuple(tables),
        anchors=anchors,
        roles={name: library.sha256(round) for name, round in plan.anchors.items()},
        objective=parts.objective.at(plan.round),
    )


def anchor(parts: Parts, plan: Plan, library: Library) -> Entry:
    """Log-probs under every anchor of the responses the learner will see: once, for every epoch and later round."""

    def write(folder: Path) -> Facts:
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
            write_table(folder, f"anchors/{name}", parts.learner.logps(responses, wanted, policy))
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


def learn(parts: Parts, plan: Plan, library: Library) -> Entry:
    """Teach the learner the round's lesson and publish what comes out. Two commits: `learn`, `publish`."""
    round, ledger, learner = plan.round, parts.ledger, parts.learner
    published = ledger.entry(round, "publish")
    if published is not None:
        return published
    lesson = lesson_of(parts, plan, library)
    steps = learner.steps(lesson)  # 0 where the round has no useful pairs: the same weights are published
    leaves_checkpoint = round % parts.keeping.every == 0 or round == parts.rounds

    def taught(folder: Path) -> Facts:
        metrics = _teach(parts, plan, library, lesson, steps=steps)
        if leaves_checkpoint:
            learner.save_state(folder / "learner")
        return metrics

    def publish(folder: Path) -> Facts:
        policy = library.publish(plan, changed=steps > 0)
        if leaves_checkpoint:
            learner.save_policy(folder / "policy")
        probe = None if policy.probe is None else asdict(policy.probe)
        return {"name": policy.name, "sha256": policy.sha256, "probe": probe}

    learned = ledger.entry(round, "learn")
    if learned is None:
        ledger.commit(round, "learn", taught)
    else:  # killed between the two commits: come back to where learning ended
        library.begin(plan.init)
        if ledger.has(round, "learner"):
            learner.load_state(ledger.folder(round) / "learner")
        elif steps:
            learner.update(lesson, 0, steps)
    for path in sorted(ledger.folder(round).glob("learner.step*")):
        ledger.prune(round, [path.name])
    return ledger.commit(round, "publish", publish)


def _teach(parts: Parts, plan: Plan, library: Library, lesson: Lesson, *, steps: int) -> Facts:
    """All steps of the lesson, with commits inside it where `checkpoint.steps` asks for them."""
    learner = parts.learner
    library.begin(plan.init)
    library.held = None  # from the first step on, what the learner holds has no name
    stride = parts.keeping.steps or _progress_stride(steps)
    metrics: list[Facts] = []
    for first in range(0, steps, stride):
        last = min(first + stride, steps)
        parts.progress(plan.round, "learn", first, steps, "steps")
        if parts.keeping.steps is None or last == steps:
            metrics.append(learner.update(lesson, first, last))
        else:
            metrics.append(_committed_steps(parts, plan.round, lesson, first, last).facts)
    parts.progress(plan.round, "learn", steps, steps, "steps")
    return {"steps": steps, **_mean(metrics)}


def _committed_steps(parts: Parts, round: int, lesson: Lesson, first: int, last: int) -> Entry:
    name, folder = f"learn.step{last:06d}", f"learner.step{last:06d}"

    def write(aside: Path) -> Facts:
        metrics = parts.learner.update(lesson, first, last)
        parts.learner.save_state(aside / folder)
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


def _mean(metrics: list[Facts]) -> dict[str, float]:
    """Means over all pairs, from means over some pairs each; of `pairs`, their total weight, the sum."""
    sums: dict[str, float] = {}
    for facts in metrics:
        pairs = facts["pairs"]
        assert isinstance(pairs, int | float), f"pairs is {pairs!r}"
        for key, value in facts.items():
            assert isinstance(value, int | float), f"{key} is {value!r}"
            sums[key] = sums.get(key, 0.0) + (value if key == "pairs" else value * pairs)
    return {key: value if key == "pairs" else value / sums["pairs"] for key, value in sums.items()}


def _responses_in_pairs(lesson: Lesson) -> list[str]:
    ids: dict[str, None] = {}
    for tables in lesson.tables:
        pairs = tables.pairs.read(["first", "second"])
        for side in ("first", "second"):
            ids.update(dict.fromkeys(pairs[side].to_pylist()))
    return sorted(ids)


def _probe(facts: object) -> Probe | None:
    if facts is None:
        return None
    assert isinstance(facts, Mapping)
    return Probe(tokens=tuple(facts["tokens"]), prompt=facts["prompt"], logps=tuple(facts["logps"]))
