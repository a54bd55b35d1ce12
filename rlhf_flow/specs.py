"""What a worker is, before it lives: specifications, which a cluster opens where it puts the worker."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Protocol

from rlhf_flow.protocols import Engine, Learner, Scorer
from rlhf_flow.tokenization.chat_template import ChatTemplate, load_tokenizer
from rlhf_flow.weights.buckets import BUCKET

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


@dataclass(frozen=True)
class Model:
    """A Hugging Face causal LM, as the user names it: local folder, or hub name with a revision."""

    path: str  # a folder with a Hugging Face checkpoint, or a name on the hub
    revision: str | None = None  # of a name on the hub
    trust_remote_code: bool = False  # run the code that comes with the checkpoint
    dtype: str = "float32"  # float32 or bfloat16: of the engine and of the published weights
    chat_template: ChatTemplate = field(default_factory=ChatTemplate)  # of its tokenizer

    def tokenizer(self) -> PreTrainedTokenizerBase:
        """The tokenizer, with the chosen chat template. Raises ValueError if it does not load."""
        return load_tokenizer(
            self.path,
            template=self.chat_template,
            key="model.path",
            revision=self.revision,
            trust_remote_code=self.trust_remote_code,
        )


@dataclass(frozen=True)
class Place:
    """Which rank of how many a worker is, and where they meet."""

    rank: int = 0
    size: int = 1
    address: str = "127.0.0.1"
    port: int = 0  # of the rendezvous; unused when size is 1
    device: str = "cpu"
    threads: int = 1
    bucket: int = BUCKET  # bytes of weights that are gathered at once to be published
    shared: bool = False  # with workers of other roles, one of which works at a time


class EngineSpec(Protocol):
    def check(self) -> None:
        """Raise ValueError for what can be known to be missing before any worker starts."""
        ...

    @property
    def gpus(self) -> int:
        """How many GPUs one engine takes, where there are any."""
        ...

    @property
    def needs_own_process(self) -> bool:
        """Whether it needs a process that it shares with no learner and no scorer."""
        ...

    @property
    def can_mix(self) -> bool:
        """Whether it can be opened for mixtures."""
        ...

    def max_sequence(self, positions: int | None) -> int | None:
        """Tokens of prompt and answer together, for a model with so many positions; None: no limit is known."""
        ...

    def sized(self, longest: int) -> EngineSpec:
        """The same engine, with room for sequences of `longest` tokens unless its fields say how much it has."""
        ...

    def open(self, model: Model, place: Place, *, mixes: bool = False) -> Engine:
        """`mixes`: whether it will be asked for a `Mixture`, which takes a second set of weights."""
        ...


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

    @property
    def intransitive(self) -> bool:
        """Whether its preferences can have cycles: it compares answers, and does not give each a number."""
        ...

    @property
    def cache_format(self) -> str | None:
        """How its verdicts may be kept for any run: `pairs`, or `log_odds` or `ranks`, numbers whose wins follow.

        The wins are `wins.bradley_terry` or `wins.by_comparison` of these. None where the same messages, gold answer,
        meta and texts may get another verdict, or where it keeps them itself.
        """
        ...

    def open(self, place: Place) -> Scorer: ...


class LearnerSpec(Protocol):
    def fingerprint(self) -> str:
        """The identity of what its fields only name: hash of the files; empty where there are none."""
        ...

    @property
    def ranks(self) -> int: ...

    @property
    def can_average(self) -> bool:
        """Whether policies that it publishes can be averaged."""
        ...

    def check(self) -> None:
        """As of an engine."""
        ...

    def open(self, model: Model, place: Place) -> Learner: ...


class Cluster(Protocol):
    """Where parts run. What it returns has the same signature as the worker itself; calls block.

    Workers open side by side; `ready` waits for all of them.
    """

    def engine(self, spec: EngineSpec, model: Model, *, mixes: bool = False) -> Engine: ...

    def scorer(self, spec: ScorerSpec) -> Scorer: ...

    def learner(self, spec: LearnerSpec, model: Model) -> Learner: ...

    def ready(self) -> None: ...

    @property
    def deaths(self) -> Sequence[str]:
        """What was said of each worker that died and was started again, in order."""
        ...

    def close(self) -> None: ...
