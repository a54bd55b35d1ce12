"""Worker specs: picklable configuration that a cluster turns into a live worker."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Protocol, runtime_checkable

from rlhf_flow.protocols import Engine, Learner, PromptSource, Scorer
from rlhf_flow.tokenization.chat_template import ChatTemplate, load_tokenizer
from rlhf_flow.weights.buckets import BUCKET

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


@dataclass(frozen=True)
class Model:
    """A Hugging Face causal LM: a local folder, or a hub name with a revision."""

    path: str  # a folder with a Hugging Face checkpoint, or a name on the hub
    revision: str | None = None  # branch, tag or commit on the hub
    trust_remote_code: bool = False  # run the code in the checkpoint
    dtype: str = "float32"  # float32 | bfloat16: dtype of the engine and of the published weights
    chat_template: ChatTemplate = field(default_factory=ChatTemplate)  # the chat template of the tokenizer

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
    """The rank, world size and device of a worker, and the address of its rendezvous."""

    rank: int = 0
    size: int = 1
    address: str = "127.0.0.1"
    port: int = 0  # of the rendezvous; unused if size is 1
    device: str = "cpu"
    threads: int = 1
    bucket: int = BUCKET  # bytes of weights gathered at once for publication
    shared: bool = False  # whether other roles use the same GPU in turns

    def with_threads(self, threads: int | None) -> Place:
        """The place with so many CPU threads; None: as it is."""
        return self if threads is None else replace(self, threads=threads)


class PromptsSpec(Protocol):
    """Where prompts come from."""

    @property
    def format(self) -> str:
        """How a prompt becomes tokens. chat: by the tokenizer's chat template; plain: BOS and the text."""
        ...

    def open(self, tokenizer: PreTrainedTokenizerBase, seed: int) -> PromptSource: ...


class EngineSpec(Protocol):
    def check(self) -> None:
        """Raise ValueError for a problem that shows before any worker starts."""
        ...

    @property
    def gpus(self) -> int:
        """GPUs per engine, on a cluster with GPUs."""
        ...

    @property
    def needs_own_process(self) -> bool:
        """Whether it cannot share a process with the learner or a scorer."""
        ...

    @property
    def can_mix(self) -> bool:
        """Whether it can sample from a `Mixture`."""
        ...

    def max_sequence(self, positions: int | None) -> int | None:
        """The limit of prompt plus answer in tokens, for a model with this many positions; None: no limit is known."""
        ...

    def sized(self, longest: int) -> EngineSpec:
        """The same engine with room for sequences of `longest` tokens, unless its fields set a length."""
        ...

    def open(self, model: Model, place: Place, *, mixes: bool = False) -> Engine:
        """`mixes`: whether the run samples from a `Mixture`, which needs a second set of weights."""
        ...


@runtime_checkable
class Receives(Protocol):
    """The spec of an engine with `receive` and `received`, as `VLLMEngine` has them."""

    @property
    def receives(self) -> bool:
        """Whether the learner can broadcast weights to the engine."""
        ...


@runtime_checkable
class Broadcasts(Protocol):
    """The spec of a learner with `publishing_files`, as `PreferenceLearner` has it."""

    @property
    def broadcasts(self) -> bool:
        """Whether the learner can broadcast its weights to engines."""
        ...


class ScorerSpec(Protocol):
    def fingerprint(self) -> str:
        """A hash of the files or the source that its fields name."""
        ...

    def check(self) -> None:
        """As `EngineSpec.check`."""
        ...

    @property
    def loads_model(self) -> bool:
        """Whether the scorer loads a model, and so needs a process of its own."""
        ...

    @property
    def intransitive(self) -> bool:
        """Whether its preferences can have cycles: it compares answers instead of rating each."""
        ...

    @property
    def cache_format(self) -> str | None:
        """The form in which its verdicts can be cached across runs: `pairs`, `log_odds` or `ranks`.

        Win probabilities follow from `log_odds` and `ranks` by `bradley_terry` and `by_comparison`. None if the same
        messages, gold answer, meta and texts may get another verdict, or if the scorer has its own cache.
        """
        ...

    def open(self, place: Place) -> Scorer: ...


class LearnerSpec(Protocol):
    def fingerprint(self) -> str:
        """A hash of the files that its fields name; empty if there are none."""
        ...

    @property
    def ranks(self) -> int: ...

    @property
    def can_average(self) -> bool:
        """Whether the policies it publishes can be averaged."""
        ...

    def check(self) -> None:
        """As `EngineSpec.check`."""
        ...

    def open(self, model: Model, place: Place) -> Learner: ...


class ClusterSpec(Protocol):
    """Where workers run: in this process, or as Ray actors."""

    @property
    def in_process(self) -> bool:
        """Whether all workers run in the driver's process."""
        ...

    @property
    def disaggregated(self) -> bool:
        """Whether each role has its own GPUs."""
        ...

    @property
    def address(self) -> str | None:
        """The address of the Ray cluster to join; None starts one, or needs none."""
        ...

    @property
    def nodes(self) -> int: ...

    @property
    def engines(self) -> int:
        """Replicas of the engine."""
        ...

    @property
    def scorers(self) -> int:
        """Replicas of each scorer that loads a model."""
        ...

    @property
    def gpu_share(self) -> float:
        """The share of a GPU that each worker takes."""
        ...

    @property
    def object_store_mib(self) -> int | None:
        """The size of the object store that the run starts; None: for its policies, or there is none."""
        ...

    def sized(self, *, policies: int, weights: int) -> ClusterSpec:
        """The same cluster for a round that names `policies` bytes of policies, and workers that load `weights` bytes.

        Only keys that are null change.
        """
        ...

    def check(self, *, ranks: int) -> None:
        """Raise ValueError if the cluster cannot run a learner of so many ranks."""
        ...

    def open(self) -> Cluster: ...


class Cluster(Protocol):
    """Starts workers. Each method returns an object with the worker's own signature; its calls block.

    Workers start concurrently; `ready` waits for all of them.
    """

    def engine(self, spec: EngineSpec, model: Model, *, mixes: bool = False) -> Engine: ...

    def scorer(self, spec: ScorerSpec) -> Scorer: ...

    def learner(self, spec: LearnerSpec, model: Model) -> Learner: ...

    def ready(self) -> None: ...

    @property
    def gpus(self) -> float:
        """The GPUs of all its nodes."""
        ...

    @property
    def deaths(self) -> Sequence[str]:
        """One message for each worker that died and was restarted, in order."""
        ...

    def close(self) -> None: ...
