"""The extension points: what each part promises to the loop, and nothing more.

Two kinds. A *part* is a small frozen dataclass: its fields are its configuration, its methods its behaviour
(`Sampler`, `Selector`, `Schedule`, `Memory`, `Objective`). A *worker* holds a model or a device and lives where the
cluster puts it (`Engine`, `Scorer`, `Learner`); its part is a specification whose method `open` is called there.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from rlhf_flow.types import (
    Draw,
    Lesson,
    Loss,
    PairLogps,
    Plan,
    Policy,
    Prompt,
    Rollouts,
    RoundRecord,
    Scored,
    Selection,
    Table,
)

if TYPE_CHECKING:
    import pyarrow as pa


@dataclass(frozen=True)
class Model:
    """A Hugging Face causal LM, as the user names it: local folder, or hub name with a revision."""

    path: str
    revision: str | None = None
    trust_remote_code: bool = False
    dtype: str = "float32"  # float32 or bfloat16: of the engine and of the published weights


@dataclass(frozen=True)
class Place:
    """Which rank of how many a worker is, and where they meet."""

    rank: int = 0
    size: int = 1
    address: str = "127.0.0.1"
    port: int = 0  # of the rendezvous; unused when size is 1
    device: str = "cpu"
    threads: int = 1


# -- parts ------------------------------------------------------------------------------------------------------------


class PromptSource(Protocol):
    """x ~ rho. Pure in the round number: there is no iterator to save."""

    @property
    def counts(self) -> Mapping[str, int]:
        """What became of the rows: training, held_out, too_long_cut, too_long_dropped, ..."""
        ...

    @property
    def longest(self) -> int:
        """The number of tokens of the longest prompt."""
        ...

    @property
    def sha256(self) -> str:
        """Of all prompts, training and held out, in order: a resumed run must ask the same."""
        ...

    def batch(self, round: int) -> tuple[Prompt, ...]:
        """The prompts of a round: one seeded permutation per epoch, so every prompt is seen once an epoch."""
        ...

    def held_out(self) -> tuple[Prompt, ...]:
        """The prompts that evaluation uses and training never sees."""
        ...


class Sampler(Protocol):
    """Who answers."""

    def sample(
        self, engine: Engine, prompts: Sequence[Prompt], policies: Mapping[str, Policy], plan: Plan, *, seed: int
    ) -> Rollouts:
        """Responses of `plan.round`; `policies["sampler"]` is the policy of round `plan.sampler`, `seed` the run's."""
        ...


class Selector(Protocol):
    """Which answers become pairs, and which label they get."""

    def select(self, scored: Scored) -> Selection: ...


class Objective(Protocol):
    """What is minimised: a pure function of log-probs, without device or configuration object."""

    @property
    def needs(self) -> frozenset[str]:
        """The names of the anchors whose log-probs `loss` reads."""
        ...

    def at(self, round: int) -> Objective:
        """The objective of this round, where its constants depend on the round."""
        ...

    def loss(self, pairs: PairLogps) -> Loss: ...


class Memory(Protocol):
    """Which past rounds the learner still sees."""

    def rounds(self, round: int) -> tuple[int, ...]: ...


class Schedule(Protocol):
    """Which versions a round uses: pure in the round number and the committed records."""

    def at(self, round: int, records: Sequence[RoundRecord]) -> Plan: ...


# -- workers ----------------------------------------------------------------------------------------------------------


class Engine(Protocol):
    """Generation."""

    def generate(self, prompts: Sequence[Prompt], policy: Policy, draw: Draw, *, round: int, seed: int) -> Rollouts:
        """Draw `draw.n` responses per prompt from exactly `policy`: other weights are fetched first, and probed.

        The seed of a response is a function of (seed, round, prompt id, draw name, k) alone (`rlhf_flow.seeds`), so the
        answers depend neither on who draws them nor on what else is in the batch.
        """
        ...

    def close(self) -> None: ...


class Scorer(Protocol):
    """What an answer is worth."""

    def score(self, rollouts: Rollouts) -> Scored: ...

    def close(self) -> None: ...


class Learner(Protocol):
    """Optimisation. Every method is called on all ranks, with the same arguments; all return the same value."""

    def start(self, policy: Policy) -> None:
        """Hold `policy`: its weights, and the optimizer state published with them or a fresh one, as configured.

        A learner that already holds exactly these weights keeps them.
        """
        ...

    def logps(self, responses: Sequence[Table], wanted: Sequence[str], policy: Policy) -> pa.Table:
        """Token log-probs of the responses with ids `wanted`, under `policy`, in that order.

        Columns: response, policy (sha256), logps list<float32>. Weights other than those held are loaded for the
        purpose and dropped again; the weights held do not change.
        """
        ...

    def steps(self, lesson: Lesson) -> int:
        """The number of optimizer steps in the lesson: 0 where it holds no pairs."""
        ...

    def update(self, lesson: Lesson, first: int, last: int) -> Mapping[str, float]:
        """Take optimizer steps first..last-1 of the lesson; return their metrics.

        Those are weighted means over the pairs that the steps saw, and `pairs`, the total weight of these.

        Raises FloatingPointError, before any weight changes, on a non-finite loss; the message names the pairs.
        """
        ...

    def publish(self, name: str, round: int) -> Policy:
        """The weights held now, as a policy that engines can fetch; no file is written."""
        ...

    def save_policy(self, folder: Path) -> None:
        """Write a Hugging Face checkpoint (safetensors, config, tokenizer)."""
        ...

    def save_state(self, folder: Path) -> None:
        """Write weights, moments and counters as safetensors and JSON, readable by any number of ranks."""
        ...

    def load_state(self, folder: Path) -> None:
        """Continue exactly where `save_state` was called."""
        ...

    def close(self) -> None: ...


class EngineSpec(Protocol):
    def check(self) -> None:
        """Raise ValueError for what can be known to be missing before any worker starts."""
        ...

    @property
    def gpus(self) -> int:
        """How many GPUs one engine takes, where there are any."""
        ...

    @property
    def alone(self) -> bool:
        """Whether it needs a process that it shares with no learner and no scorer."""
        ...

    def reads_at_most(self, positions: int | None) -> int | None:
        """Tokens of prompt and answer together, for a model with so many positions; None: no limit is known."""
        ...

    def open(self, model: Model, place: Place) -> Engine: ...


class ScorerSpec(Protocol):
    def fingerprint(self) -> str:
        """The identity of what its fields only name: hash of the weights or of the source."""
        ...

    def check(self) -> None:
        """As of an engine."""
        ...

    @property
    def loads_model(self) -> bool:
        """Whether the scorer deserves a process of its own."""
        ...

    def open(self, place: Place) -> Scorer: ...


class LearnerSpec(Protocol):
    def fingerprint(self) -> str:
        """The identity of what its fields only name: hash of the files; empty where there are none."""
        ...

    @property
    def ranks(self) -> int: ...

    def check(self) -> None:
        """As of an engine."""
        ...

    def open(self, model: Model, place: Place) -> Learner: ...


class Cluster(Protocol):
    """Where parts run. What it returns has the same signature as the worker itself; calls block.

    Workers open side by side; `ready` waits for all of them.
    """

    def engine(self, spec: EngineSpec, model: Model) -> Engine: ...

    def scorer(self, spec: ScorerSpec) -> Scorer: ...

    def learner(self, spec: LearnerSpec, model: Model) -> Learner: ...

    def ready(self) -> None: ...

    def close(self) -> None: ...
