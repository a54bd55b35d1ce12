"""A world small enough to compute by hand: every prompt has K one-token answers, the policy is a table of logits.

The loop, the ledger and every kill of the crash drill run on it in milliseconds. It keeps the promises of
`rlhf_flow.protocols` in numpy alone.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from hashlib import sha256
from pathlib import Path

import numpy as np
import pyarrow as pa

from rlhf_flow import loop
from rlhf_flow.metrics.off_policy import OffPolicy
from rlhf_flow.protocols import TrainingRound
from rlhf_flow.replay import Window
from rlhf_flow.sampler.source import streamed
from rlhf_flow.schedule import EveryK, Fixed, Lagged
from rlhf_flow.seeds import derive
from rlhf_flow.stages.context import CheckpointPolicy, Evaluation, RunContext
from rlhf_flow.storage import parquet as rows
from rlhf_flow.storage.ledger import Ledger
from rlhf_flow.storage.tables import Table
from rlhf_flow.types import (
    Loss,
    Message,
    Needs,
    Pair,
    PairLogps,
    Policy,
    Prompt,
    Response,
    Rollouts,
    SamplingParams,
    Scored,
    Selection,
)
from rlhf_flow.weights.source import Checkpoint

PROMPTS, ANSWERS = 6, 5


@dataclass(frozen=True)
class Logits:
    """Weights held in memory: float64 [PROMPTS, ANSWERS]."""

    table: np.ndarray = field(compare=False)

    def load(self) -> dict:
        return {"logits": self.table}


def logits_of(policy: Policy) -> np.ndarray:
    if isinstance(policy.weights, Checkpoint):
        return np.asarray(json.loads((policy.weights.path / "logits.json").read_text()))
    assert isinstance(policy.weights, Logits)
    return policy.weights.table.copy()


def log_softmax(logits: np.ndarray) -> np.ndarray:
    return logits - np.log(np.exp(logits).sum(-1, keepdims=True))


def name(logits: np.ndarray) -> str:
    return sha256(logits.tobytes()).hexdigest()


def start() -> Policy:
    logits = np.zeros((PROMPTS, ANSWERS))
    return Policy(name="policy", round=0, sha256=name(logits), weights=Logits(logits))


class Prompts:
    def __init__(self) -> None:
        self.all = tuple(
            Prompt(id=f"p{i}", messages=(Message("user", f"question {i}"),), tokens=(i,)) for i in range(PROMPTS)
        )

    def batch(self, round: int, page: int = 0) -> tuple[Prompt, ...]:
        order = np.random.default_rng(round).permutation(PROMPTS)[4 * page : 4 * page + 4]
        return tuple(self.all[i] for i in order)

    def held_out(self) -> tuple[Prompt, ...]:
        return self.all


class Engine:
    def generate(
        self, prompts: Sequence[Prompt], policy: Policy, draw: SamplingParams, *, round: int, seed: int
    ) -> Rollouts:
        logps = log_softmax(logits_of(policy))
        groups = []
        for prompt in prompts:
            base = derive(seed, round, prompt.id, draw.name)
            row = logps[prompt.tokens[0]]
            group = []
            for k in range(draw.n):
                token = int(np.random.default_rng(base + k).choice(ANSWERS, p=np.exp(row)))
                group.append(
                    Response(
                        id=f"{round}/{draw.name}/{k}/{prompt.id}",
                        tokens=np.asarray([token], dtype=np.int32),
                        text=f"answer {token}",
                        logps=row[[token]].astype(np.float32),
                        truncated=False,
                        draw=draw,
                        seed=base + k,
                        policy=policy.sha256,
                    )
                )
            groups.append(tuple(group))
        return Rollouts(round=round, prompts=tuple(prompts), responses=tuple(groups))

    def close(self) -> None: ...


@dataclass(frozen=True)
class Sampler:
    draw: SamplingParams = field(default_factory=lambda: SamplingParams(n=3))
    roles: frozenset[str] = frozenset({"policy"})

    @property
    def drawn(self) -> Mapping[str, SamplingParams]:
        return {"sampler.draw": self.draw}

    @property
    def sources(self) -> Mapping[str, str]:
        return {self.draw.name: "policy"}

    def stream(
        self, engine: Engine, prompts: Sequence[Prompt], policies: Mapping[str, Policy], *, round: int, seed: int
    ) -> Iterator[Rollouts]:
        yield from streamed(engine, prompts, policies["policy"], self.draw, round=round, seed=seed)


class HigherIsBetter:
    """Answer k is worth k."""

    def score(self, rollouts: Rollouts) -> Scored:
        utility = np.asarray([[float(y.tokens[0]) for y in group] for group in rollouts.responses], dtype=np.float32)
        wins = 0.5 + 0.5 * np.sign(utility[:, :, None] - utility[:, None, :])
        return Scored(rollouts, utility=utility, wins=wins.astype(np.float32), counts={"judge/queries": utility.size})

    def close(self) -> None: ...


class BestAndWorst:
    def select(self, scored: Scored) -> Selection:
        pairs, buckets, counts = [], {}, {"used": 0, "tie": 0}
        for prompt, group, utility in zip(
            scored.rollouts.prompts, scored.rollouts.responses, scored.utility, strict=True
        ):
            best, worst = int(utility.argmax()), int(utility.argmin())
            useful = utility[best] > utility[worst]
            counts["used" if useful else "tie"] += 1
            for k, response in enumerate(group):
                buckets[response.id] = "used" if useful and k in (best, worst) else "not_selected"
            if useful:
                pairs.append(Pair(prompt.id, group[best].id, group[worst].id, preference=1.0))
        return Selection(tuple(pairs), buckets, counts)


class NothingUseful:
    """A selector that finds no pair."""

    def select(self, scored: Scored) -> Selection:
        ids = [response.id for group in scored.rollouts.responses for response in group]
        return Selection((), dict.fromkeys(ids, "tie"), {"tie": len(scored.rollouts.prompts)})


@dataclass(frozen=True)
class Objective:
    beta: float = 1.0

    @property
    def needs(self) -> Needs:
        return Needs(anchors=frozenset({"reference"}))

    def at(self, round: int) -> Objective:
        return self

    def loss(self, pairs: PairLogps) -> Loss:
        raise AssertionError("the toy learner has its own gradient")


class Learner:
    """DPO on the table of logits by gradient descent with momentum: an optimizer state that a resume must not lose."""

    STEPS = 3  # of a round

    def __init__(self, rank: int = 0) -> None:
        self.rank = rank
        self.held = ""
        self.logits = np.zeros((PROMPTS, ANSWERS))
        self.momentum = np.zeros_like(self.logits)

    def start(self, policy: Policy) -> None:
        if policy.sha256 == self.held:
            return
        self.logits, self.momentum, self.held = logits_of(policy), np.zeros_like(self.logits), policy.sha256
        if policy.state is not None:
            self.load_state(policy.state)
            self.held = policy.sha256

    def logps(self, responses: Sequence[Table], wanted: Sequence[str], policy: Policy) -> pa.Table:
        logps = log_softmax(logits_of(policy))
        rows_by_id = {row["response"]: row for table in responses for row in table.read().to_pylist()}
        values = [logps[rows_by_id[y]["prompt_tokens"][0], rows_by_id[y]["tokens"]] for y in wanted]
        return rows.from_logps(wanted, policy.sha256, [value.astype(np.float32) for value in values])

    def spread(self, responses: Sequence[Table], wanted: Sequence[str], policy: Policy) -> pa.Table:
        """All answers are among the likeliest: their mass is 1."""
        table = self.logps(responses, wanted, policy)
        logps = log_softmax(logits_of(policy))
        rows_by_id = {row["response"]: row for table in responses for row in table.read().to_pylist()}
        prompts = [rows_by_id[y]["prompt_tokens"][0] for y in wanted]
        entropy = [[float(-(np.exp(logps[x]) * logps[x]).sum())] for x in prompts]
        return table.append_column("entropy", pa.array(entropy)).append_column("mass", pa.array([[1.0]] * len(wanted)))

    def steps(self, lesson: TrainingRound) -> int:
        return self.STEPS if sum(tables.pairs.rows for tables in lesson.tables) else 0

    def computes_anchor(self, lesson: TrainingRound, sha256: str) -> bool:
        return sha256 == self.held and self.steps(lesson) == 1

    def update(self, lesson: TrainingRound, first: int, last: int) -> Mapping[str, float]:
        sides = {}
        pairs = []
        for tables in lesson.tables:
            sides |= {row["response"]: row for row in tables.responses.read().to_pylist()}
            pairs += tables.pairs.read().to_pylist()
        reference = lesson.roles["reference"]
        table = lesson.anchors.read().to_pylist() if lesson.anchors.shards else []
        anchors = {(row["response"], row["policy"]): row["logps"][0] for row in table}
        if self.computes_anchor(lesson, reference):
            own = log_softmax(self.logits)
            for id, row in sides.items():
                anchors.setdefault((id, reference), np.float32(own[row["prompt_tokens"][0], row["tokens"][0]]))
        losses = []
        for _ in range(first, last):
            gradient, loss = np.zeros_like(self.logits), 0.0
            logps = log_softmax(self.logits)
            for pair in pairs:
                x, (w,), (loser,) = (
                    sides[pair["first"]]["prompt_tokens"][0],
                    sides[pair["first"]]["tokens"],
                    sides[pair["second"]]["tokens"],
                )
                margin = (logps[x, w] - anchors[pair["first"], reference]) - (
                    logps[x, loser] - anchors[pair["second"], reference]
                )
                pull = 1 / (1 + np.exp(margin))
                gradient[x, w] -= pull
                gradient[x, loser] += pull
                loss += np.log1p(np.exp(-margin))
            self.momentum = 0.5 * self.momentum + gradient
            self.logits = self.logits - 0.3 * self.momentum
            losses.append(loss / len(pairs))
        self.held = ""
        return {"loss": float(np.mean(losses)), "pairs": float(len(pairs) * len(losses))}

    def publish(self, name_: str, round: int) -> Policy:
        self.held = name(self.logits)
        return Policy(name=name_, round=round, sha256=self.held, weights=Logits(self.logits.copy()))

    def average(self, name_: str, round: int, terms: Sequence[tuple[Policy, float]]) -> Policy:
        table = sum(coefficient * logits_of(policy) for policy, coefficient in terms)
        return Policy(name=name_, round=round, sha256=name(table), weights=Logits(table))

    def save_policy(self, folder: Path, policy: Policy | None = None) -> Mapping[str, str]:
        if self.rank == 0:
            folder.mkdir(parents=True)
            logits = self.logits if policy is None else logits_of(policy)
            (folder / "logits.json").write_text(json.dumps(logits.tolist()))
        return {}

    def save_state(self, folder: Path) -> Mapping[str, str]:
        if self.rank == 0:
            folder.mkdir(parents=True)
            state = {"logits": self.logits.tolist(), "momentum": self.momentum.tolist()}
            (folder / "state.json").write_text(json.dumps(state))
        return {}

    def load_state(self, folder: Path) -> None:
        state = json.loads((folder / "state.json").read_text())
        self.logits, self.momentum, self.held = np.asarray(state["logits"]), np.asarray(state["momentum"]), ""

    def close(self) -> None: ...


class Recorder:
    """An observer that remembers what it was told."""

    def __init__(self) -> None:
        self.rounds: list[int] = []

    def stage(self, round: int, name: str, done: int, total: int, unit: str, detail: str = "") -> None: ...

    def round(self, record: object) -> None:
        self.rounds.append(record.round)

    def close(self) -> None: ...


def parts(
    root: Path, *, rounds: int = 4, every: int = 1, steps: int | None = None, k: int = 0, lag: int = 0, **others: object
) -> RunContext:
    """A toy run in `root`: `every` and `steps` of its checkpoints, reference renewed every `k` rounds (0: never)."""
    ledger = Ledger.open(root, config="toy: true\n", identity={"toy": True, "k": k}, manifest={"toy": True})
    values = {
        "seed": 7,
        "rounds": rounds,
        "prompts_per_commit": 2,
        "start": start(),
        "trust_remote_code": False,
        "prompts": Prompts(),
        "sampler": Sampler(),
        "engine": Engine(),
        "scorer": HigherIsBetter(),
        "selector": BestAndWorst(),
        "objective": Objective(),
        "replay": Window(2),
        "schedule": Lagged(EveryK(k) if k else Fixed(), lag),
        "lag": lag,
        "disaggregated": True,
        "off_policy": OffPolicy(measured=2),
        "learner": Learner(),
        "evaluation": Evaluation(HigherIsBetter(), draw=SamplingParams(), every=1),
        "checkpoints": CheckpointPolicy(every=every, steps=steps, keep=2),
        "ledger": ledger,
        "observers": [Recorder()],
    }
    return RunContext(**(values | others))


def run(root: Path, **settings: object) -> RunContext:
    """Run (or resume) the toy to its end."""
    made = parts(root, **settings)
    try:
        loop.run(made)
    finally:
        made.ledger.close()
    return made
