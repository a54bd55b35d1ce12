"""The extension points: what each part promises to the loop, and nothing more.

Two kinds. A *part* is a small frozen dataclass: its fields are its configuration, its methods its behaviour
(`Sampler`, `Selector`, `Schedule`, `Memory`, `Objective`). A *worker* holds a model or a device and lives where the
cluster puts it (`Engine`, `Scorer`, `Learner`); its part is a specification (`rlhf_flow.specs`), opened there.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from rlhf_flow.storage.tables import Table, TrainingRound
from rlhf_flow.types import (
    Loss,
    Mixture,
    Needs,
    PairLogps,
    Policy,
    Prompt,
    Rollouts,
    RoundPlan,
    RoundRecord,
    SamplingParams,
    Scored,
    Selection,
)

if TYPE_CHECKING:
    import pyarrow as pa


# -- parts ------------------------------------------------------------------------------------------------------------


class PromptSource(Protocol):
    """x ~ rho. Pure in the round number: there is no iterator to save."""

    @property
    def counts(self) -> Mapping[str, int]:
        """What became of the rows: training, held_out, too_long_cut, too_long_dropped, ..."""
        ...

    @property
    def summary(self) -> str:
        """One line for the console: how the data set was read, and the counts."""
        ...

    @property
    def origin(self) -> Mapping[str, object]:
        """The files and the number of rows, for the manifest: they tell a later start what changed."""
        ...

    @property
    def longest(self) -> int:
        """The number of tokens of the longest prompt."""
        ...

    @property
    def candidates(self) -> Mapping[str, int]:
        """The answers that came with every training prompt, for samplers to draw: name -> tokens of the longest."""
        ...

    @property
    def sha256(self) -> str:
        """Of all prompts, training and held out, in order: a resumed run must ask the same."""
        ...

    def batch(self, round: int, page: int = 0) -> tuple[Prompt, ...]:
        """The prompts of a round: one seeded permutation per epoch, so every prompt is seen once an epoch.

        Pages behind the first are for a round that needs more; they change no other round, and may be empty.
        """
        ...

    def held_out(self) -> tuple[Prompt, ...]:
        """The prompts that evaluation uses and training never sees."""
        ...


class Sampler(Protocol):
    """Who answers."""

    @property
    def sources(self) -> Mapping[str, str]:
        """The source of each draw's answers (policy, reference, mixture, dataset), by the draw's name."""
        ...

    @property
    def drawn(self) -> Mapping[str, SamplingParams]:
        """Its draws, by the key of the configuration that each is set with."""
        ...

    @property
    def roles(self) -> frozenset[str]:
        """Who has to answer, alone or in a mixture: policy, reference, ..."""
        ...

    @property
    def needs_mixture(self) -> bool:
        """Whether it asks the engine for a `Mixture`."""
        ...

    def sample(
        self, engine: Engine, prompts: Sequence[Prompt], policies: Mapping[str, Policy], *, round: int, seed: int
    ) -> Rollouts:
        """Responses [B, N]; `policies` has who plays each of `roles`, `seed` is the run's."""
        ...


class Selector(Protocol):
    """Which answers become pairs, and which label they get."""

    @property
    def extra(self) -> str | None:
        """The draw whose answer goes with each pair as its third response; None: no third response."""
        ...

    @property
    def keeps_order(self) -> bool:
        """Whether the first of each pair is of one draw, whoever won."""
        ...

    def check(self, counts: Mapping[str, int]) -> None:
        """Raise ValueError where so many answers per prompt, by the name of their draw, cannot give a pair."""
        ...

    def select(self, scored: Scored) -> Selection: ...


class Objective(Protocol):
    """What is minimised: a pure function of log-probs, without device or configuration object."""

    @property
    def needs(self) -> Needs: ...

    def at(self, round: int) -> Objective:
        """The objective of this round, where its constants depend on the round."""
        ...

    def loss(self, pairs: PairLogps) -> Loss: ...


class Memory(Protocol):
    """Which past rounds the learner still sees."""

    def rounds(self, round: int) -> Mapping[int, float]:
        """The rounds that are learned from in this one, the oldest first.

        Each with the most pairs of it that are used, as a share of the number of pairs of the present round.
        """
        ...


class Schedule(Protocol):
    """Which versions a round uses: pure in the round number and the committed records."""

    def check(self, rounds: int) -> None:
        """Raise ValueError where a run of so many rounds would not end on a policy that anyone would use."""
        ...

    def at(self, round: int, records: Sequence[RoundRecord]) -> RoundPlan: ...


# -- workers ----------------------------------------------------------------------------------------------------------


class Engine(Protocol):
    """Generation."""

    def generate(
        self, prompts: Sequence[Prompt], policy: Policy | Mixture, draw: SamplingParams, *, round: int, seed: int
    ) -> Rollouts:
        """Draw `draw.n` responses per prompt from exactly `policy`: other weights are fetched first, and probed.

        The seed of a response is a function of (seed, round, prompt id, draw name, k) alone (`rlhf_flow.seeds`), so the
        answers depend neither on who draws them nor on what else is in the batch.
        """
        ...

    def close(self) -> None: ...


class Scorer(Protocol):
    """What an answer is worth."""

    def score(self, rollouts: Rollouts) -> Scored: ...

    def close(self) -> None:
        """It may be closed already."""
        ...


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

    def spread(self, responses: Sequence[Table], wanted: Sequence[str], policy: Policy) -> pa.Table:
        """As `logps`, of a policy that generates, with what else could have been said at each position.

        Columns besides: entropy (nats) and mass, list<float32>, of the ten likeliest tokens there: the probability that
        they have together, and the entropy of how they share it.
        """
        ...

    def steps(self, lesson: TrainingRound) -> int:
        """The number of optimizer steps in the lesson: 0 where it holds no pairs."""
        ...

    def update(self, lesson: TrainingRound, first: int, last: int) -> Mapping[str, float]:
        """Take optimizer steps first..last-1 of the lesson; return their metrics.

        Those are weighted means over the pairs that the steps saw, and `pairs`, the total weight of these.

        Raises FloatingPointError, before any weight changes, on a non-finite loss; the message names the pairs.
        """
        ...

    def publish(self, name: str, round: int) -> Policy:
        """The weights held now, as a policy that engines can fetch; no file is written."""
        ...

    def average(self, name: str, round: int, terms: Sequence[tuple[Policy, float]]) -> Policy:
        """The policy whose weights are the sum of others', each times its coefficient, in float32.

        The weights held do not change.
        """
        ...

    def save_policy(self, folder: Path, policy: Policy | None = None) -> None:
        """Write a Hugging Face checkpoint (safetensors, config, tokenizer), or an adapter in peft's format.

        By default of the weights held.
        """
        ...

    def save_state(self, folder: Path) -> None:
        """Write weights, moments and counters as safetensors and JSON, readable by any number of ranks."""
        ...

    def load_state(self, folder: Path) -> None:
        """Continue exactly where `save_state` was called."""
        ...

    def close(self) -> None: ...
