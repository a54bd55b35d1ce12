"""The extension points: what each part promises to the loop.

Parts are of two kinds. A *part* is a small frozen dataclass: its fields are its configuration, its methods its
behaviour (`Sampler`, `Selector`, `Schedule`, `Memory`, `Objective`). A *worker* (`Engine`, `Scorer`, `Learner`) holds a
model or a device and runs in a process of the cluster; its part is a spec (`rlhf_flow.specs`) that opens it there.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, runtime_checkable

from rlhf_flow.storage.tables import Table
from rlhf_flow.types import (
    Loss,
    Mixture,
    Needs,
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


class PromptSource(Protocol):
    """x ~ rho. A pure function of the round, so there is no iterator state to save."""

    @property
    def counts(self) -> Mapping[str, int]:
        """How many rows were used for what: training, held_out, too_long_cut, too_long_dropped, ..."""
        ...

    @property
    def summary(self) -> str:
        """One line for the console: how the data set was read, and the counts."""
        ...

    @property
    def origin(self) -> Mapping[str, object]:
        """Files and number of rows, for the manifest; a resumed run reports how they changed."""
        ...

    @property
    def longest(self) -> int:
        """The number of tokens of the longest prompt."""
        ...

    @property
    def candidates(self) -> Mapping[str, int]:
        """The candidate responses that every training prompt has: name -> tokens of the longest."""
        ...

    @property
    def sha256(self) -> str:
        """Over all prompts, training and held out, in order. A resumed run must have the same."""
        ...

    def batch(self, round: int, page: int = 0) -> tuple[Prompt, ...]:
        """The prompts of a round: one seeded permutation per epoch, so every prompt is used once an epoch.

        Further pages are for rounds with too few useful pairs. They change no other round, and may be empty.
        """
        ...

    def held_out(self) -> tuple[Prompt, ...]:
        """The prompts for evaluation, which training never uses."""
        ...


class Sampler(Protocol):
    """Which policies generate the responses."""

    @property
    def sources(self) -> Mapping[str, str]:
        """The source of each draw (policy, reference, mixture, dataset), by the draw's name."""
        ...

    @property
    def drawn(self) -> Mapping[str, SamplingParams]:
        """The draws, by their configuration keys."""
        ...

    @property
    def roles(self) -> frozenset[str]:
        """The policies it samples from, alone or in a mixture: policy, reference, ..."""
        ...

    @property
    def needs_mixture(self) -> bool:
        """Whether it asks the engine for a `Mixture`."""
        ...

    def stream(
        self, engine: Engine, prompts: Sequence[Prompt], policies: Mapping[str, Policy], *, round: int, seed: int
    ) -> Iterator[Rollouts]:
        """Responses [B, N] of each prompt that is finished. `policies`: one for each of `roles`. `seed`: the run's."""
        ...


class Selector(Protocol):
    """Which responses become pairs, and with which label."""

    @property
    def extra(self) -> str | None:
        """The draw whose response is the third one of each pair; None: pairs have none."""
        ...

    @property
    def first_draw(self) -> str | None:
        """The draw of the first of each pair, win or lose; None: the winner is first."""
        ...

    @property
    def order(self) -> str | None:
        """The order of the responses in its groups: worth, the best first, or drawn; None: it makes pairs."""
        ...

    def check(self, counts: Mapping[str, int]) -> None:
        """Raise ValueError if these numbers of responses per prompt, by draw, cannot give a pair."""
        ...

    def max_pairs(self, counts: Mapping[str, int]) -> int:
        """An upper bound of the pairs of one prompt, for so many answers by the name of their draw."""
        ...

    def select(self, scored: Scored) -> Selection: ...


class Objective(Protocol):
    """The loss: a pure function of log-probs, independent of device and configuration."""

    @property
    def needs(self) -> Needs: ...

    def at(self, round: int) -> Objective:
        """The objective with its constants of this round."""
        ...

    def loss(self, pairs: Any, /) -> Loss: ...  # noqa: ANN401  # PairLogps, or GroupLogps by `needs.examples`


class Memory(Protocol):
    """Which past rounds are replayed."""

    def rounds(self, round: int) -> Mapping[int, float]:
        """The rounds to train on in this one, oldest first.

        The value is the maximum number of pairs to use, relative to the number of pairs of the present round.
        """
        ...


class Schedule(Protocol):
    """Which policy versions a round uses: a pure function of the round and the committed records."""

    def check(self, rounds: int) -> None:
        """Raise ValueError if a run of this many rounds would end on an intermediate policy."""
        ...

    def at(self, round: int, records: Sequence[RoundRecord]) -> RoundPlan: ...


class Engine(Protocol):
    """Generates responses."""

    def generate(
        self, prompts: Sequence[Prompt], policy: Policy | Mixture, draw: SamplingParams, *, round: int, seed: int
    ) -> Rollouts:
        """Sample `draw.n` responses per prompt from exactly `policy`, loading and probing its weights first if needed.

        The seed of a response depends on (seed, round, prompt id, draw name, k) alone (`rlhf_flow.seeds`), so responses
        depend neither on the engine that samples them nor on the rest of the batch.
        """
        ...

    def close(self) -> None: ...


@runtime_checkable
class StreamingEngine(Protocol):
    """An engine that returns answers while it generates others."""

    def stream(
        self, prompts: Sequence[Prompt], policy: Policy | Mixture, draw: SamplingParams, *, round: int, seed: int
    ) -> Iterator[Rollouts]: ...  # as `Engine.generate`, in pieces of one or more prompts, as these are finished


class Scorer(Protocol):
    """Scores responses."""

    def score(self, rollouts: Rollouts) -> Scored: ...

    def close(self) -> None:
        """Idempotent."""
        ...


@dataclass(frozen=True)
class RoundTables:
    """The pairs of one round, and the responses that they name."""

    round: int
    responses: Table
    pairs: Table
    kept: tuple[int, ...] | None = None  # the rows of `pairs` to train on; None: all

    def read_pairs(self, columns: list[str] | None = None) -> pa.Table:
        """The pairs to train on, in order."""
        pairs = self.pairs.read(columns)
        return pairs if self.kept is None else pairs.take(list(self.kept)) if self.kept else pairs[:0]


@dataclass(frozen=True)
class TrainingRound:
    """The training data of one round. A pure function of committed files, so training can be repeated."""

    round: int
    rounds: int  # of the whole run; a learning-rate schedule may span them
    seed: int
    tables: tuple[RoundTables, ...]
    anchors: Table  # columns: response, policy (sha256), logps list<float32>
    roles: Mapping[str, str]  # anchor name -> sha256 of its policy in this round
    objective: Objective


class Learner(Protocol):
    """Trains. All ranks call every method with the same arguments, and get the same value."""

    def start(self, policy: Policy) -> None:
        """Load a policy's weights unless they are held already, and its optimizer state or a fresh one."""
        ...

    def logps(self, responses: Sequence[Table], wanted: Sequence[str], policy: Policy) -> pa.Table:
        """Token log-probs under `policy` of the responses with ids `wanted`, in that order.

        Columns: response, policy (sha256), logps list<float32>. Other weights than those held are loaded temporarily;
        the weights held do not change.
        """
        ...

    def spread(self, responses: Sequence[Table], wanted: Sequence[str], policy: Policy) -> pa.Table:
        """As `logps`, with the entropy and mass of the ten likeliest tokens at each position.

        Further columns, list<float32>: mass, their total probability; entropy (nats), of their renormalised
        distribution; likeliest, 1 if no other token is likelier, else 0.
        """
        ...

    def steps(self, training: TrainingRound, /) -> int:
        """The number of optimizer steps of the round: 0 if it has no pairs."""
        ...

    def computes_anchor(self, training: TrainingRound, sha256: str, /) -> bool:
        """Whether `update` reads this anchor in its own forward pass: it holds it and takes one step in the round."""
        ...

    def update(self, training: TrainingRound, first: int, last: int, /) -> Mapping[str, float]:
        """Take optimizer steps first..last-1 of the round; return weighted means over their pairs, and `pairs`.

        `pairs` is their total weight. Raises FloatingPointError on a non-finite loss, before any weight changes; the
        message names the pairs.
        """
        ...

    def publish(self, name: str, round: int) -> Policy:
        """The weights held, as a policy that engines can load. Writes no file."""
        ...

    def average(self, name: str, round: int, terms: Sequence[tuple[Policy, float]]) -> Policy:
        """The policy whose weights are the float32 sum of others', each times its coefficient; none is held."""
        ...

    def save_policy(self, folder: Path, policy: Policy | None = None) -> Mapping[str, str]:
        """Write a Hugging Face checkpoint (safetensors, config, tokenizer), or a peft adapter.

        By default of the weights held. Returns the sha256 of files that are flushed to disk, by path in the folder; the
        caller hashes the others.
        """
        ...

    def save_state(self, folder: Path) -> Mapping[str, str]:
        """Write weights, moments and counters, which any number of ranks can load. Returns hashes as `save_policy`."""
        ...

    def load_state(self, folder: Path) -> None:
        """Restore what `save_state` wrote."""
        ...

    def close(self) -> None: ...
