"""Memory of engines, scorers and driver, and of the object store. Letters: `model_shape` and `learner_memory`.

engine of transformers   d P weights (twice for mixtures); for R answers of S tokens in a batch the cache 2 K G d R S, a
                         copy of one layer of it while it grows, and 28 V R of logits: two float32 copies from the
                         network, two float64 copies of the distribution, and the log-probs
vLLM                     d P weights, and `cache_bytes` on a CPU; on a GPU it reserves gpu_memory_utilization of the
                         memory, whatever it needs. 12 V for each of max_num_seqs answers; null: at most 1024 on a
                         GPU, 256 on CPUs for each rank
either, opening          on a CPU also the pages of the checkpoint's files
scorer                   d P weights, and a forward pass over batch_tokens tokens
object store             d P, or d T of an adapter, for every version of the policy that a round names, on each node
offloaded                with cluster.layout=colocated, the host holds the tensors of the roles that wait for the GPU
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from rlhf_flow.capacity.activations import passing
from rlhf_flow.capacity.learner_memory import DTYPES
from rlhf_flow.capacity.model_shape import Shape, shape_of
from rlhf_flow.capacity.process_memory import CUDA_CONTEXT, MIB, Memory, Phase
from rlhf_flow.capacity.workload import Work
from rlhf_flow.config.schema import RunConfig
from rlhf_flow.engine.huggingface import HuggingFace
from rlhf_flow.engine.vllm.cache import cache_bytes
from rlhf_flow.engine.vllm.spec import VLLM
from rlhf_flow.scorer.models.classifier import Classifier
from rlhf_flow.scorer.models.ensemble import Ensemble
from rlhf_flow.scorer.models.preference_model import PreferenceModel
from rlhf_flow.specs import ScorerSpec
from rlhf_flow.system.hub import check_model

BATCHED_TOKENS = 8192  # prompt tokens in one batch of vLLM
GPU_SLOTS, CPU_SLOTS = 1024, 256  # answers at a time that vLLM chooses at most
MIN_ROWS = 64 * MIB  # rows of a round in the driver, at least
OFFLOADED = ("weights", "master weights", "moments", "gradients")  # what a process holds from call to call


def plans(config: RunConfig) -> bool:
    """Whether this module can estimate the engine."""
    return isinstance(config.engine, HuggingFace | VLLM)


def engine_memory(config: RunConfig, shape: Shape, work: Work, *, on_gpu: bool) -> Memory:
    """Memory of an engine on its device; for vLLM on a GPU the least it needs, with room for one sequence."""
    copies, d = 2 if config.sampler.needs_mixture else 1, DTYPES[config.model.dtype]
    weights = {"weights": copies * d * shape.parameters}
    opening = Phase("open", {**weights, "checkpoint": 0 if on_gpu else shape.stored * shape.parameters})
    if isinstance(config.engine, VLLM):
        split = config.engine.tensor_parallel
        slots = config.engine.max_num_seqs or (GPU_SLOTS if on_gpu else CPU_SLOTS * split)
        rows = min(slots, work.prompts * work.drawn)
        sequence = copies * cache_of_a_token(config, shape) * work.positions
        longest = config.engine.max_model_len or work.positions
        token = copies * cache_of_a_token(config, shape)
        cache = sequence if on_gpu else cache_bytes(config.engine.kv_cache_mib, token=token, longest=longest)
        read = min(BATCHED_TOKENS, work.prompts * work.longest_prompt)
        passed = {"forward pass": passing(shape, read, "float32") * d / 4 + 12 * shape.vocabulary * rows}
        items = {**weights, "KV cache": cache, **passed}
        divided = {name: bytes / split for name, bytes in items.items()}
        opened = () if on_gpu else (opening,)
        return Memory(
            "engine", "GPU" if on_gpu else "host", config.cluster.engines * split, (Phase("draw", divided), *opened)
        )
    rows = min(config.engine.batch, work.prompts * work.drawn)
    cache = copies * cache_of_a_token(config, shape) * rows * work.positions
    growing = cache / copies / max(1, shape.layers)
    draw = {**weights, "KV cache": cache + growing, "logits": 28 * shape.vocabulary * rows}
    phases = (opening, Phase("draw", draw))
    return Memory("engine", "GPU" if on_gpu else "host", config.cluster.engines, phases)


def cache_of_a_token(config: RunConfig, shape: Shape) -> int:
    """Bytes of keys and values in all layers."""
    return 2 * shape.layers * shape.keys * DTYPES[config.model.dtype]


@dataclass(frozen=True)
class ModelScorer:
    """A scorer that loads a model, with its slot in the configuration."""

    slot: str
    spec: Classifier | PreferenceModel


def model_scorers(config: RunConfig) -> tuple[list[ModelScorer], list[str]]:
    """The scorers whose models can be estimated, and the slots of other scorers that load a model."""
    known, unknown = [], []
    for slot, spec in with_inner(scorers(config)):
        if isinstance(spec, Classifier | PreferenceModel):
            known.append(ModelScorer(slot, spec))
        elif spec.loads_model and not inner_scorers(slot, spec):
            unknown.append(slot)
    return known, unknown


def scorer_memory(config: RunConfig, scorer: ModelScorer, *, on_gpu: bool) -> Memory:
    """Raises ValueError if the checkpoint has no configuration."""
    spec = scorer.spec
    head = isinstance(spec, Classifier)
    check_model(f"{scorer.slot}.path", spec.path)
    shape = shape_of(spec.path, revision=spec.revision, trust_remote_code=spec.trust_remote_code, head=head)
    weights = {"weights": DTYPES[spec.dtype] * shape.parameters}
    numeric = "float32" if spec.dtype == "float32" else "bfloat16"
    phases = (
        Phase("open", weights),
        Phase("score", {**weights, "forward pass": passing(shape, spec.batch_tokens, numeric)}),
    )
    return Memory(scorer.slot, "GPU" if on_gpu else "host", config.cluster.scorers, phases)


def driver_memory(work: Work) -> Memory:
    """The rows of a round: tokens and log-probs, twice while they are written."""
    rows = 2 * work.answers_scored * (work.longest_prompt + work.longest_answer) * 8
    return Memory("driver", "host", 1, (Phase("round", {"rows of a round": max(rows, MIN_ROWS)}),))


def object_store(config: RunConfig, published: int) -> float:
    """Bytes of the policies in Ray's object store: those that a round names, and the one it publishes.

    `published`: parameters of a policy, or of an adapter.
    """
    if config.cluster.in_process:
        return 0.0
    most = 0
    for round in range(1, config.rounds + 1):
        plan = config.timeline.at(round, ())
        anchors = {plan.anchors[name] for name in config.objective.needs.anchors if name in plan.anchors}
        sampled = {plan.samplers[role] for role in config.sampler.roles if role not in plan.averages}
        most = max(most, len((anchors | sampled | {plan.init}) - {0}) + len(plan.averages) + 1)
    return float(most * DTYPES[config.model.dtype] * published)


def offloaded(memories: list[Memory]) -> Iterator[Memory]:
    """Host memory that each process on a shared GPU takes while another role uses the GPU."""
    for memory in memories:
        if memory.where == "GPU":
            items = {
                name: max(phase.items.get(name, 0.0) for phase in memory.phases)
                for name in OFFLOADED
                if any(name in phase.items for phase in memory.phases)
            }
            yield Memory(memory.role, "host", memory.processes, (Phase("offloaded", items),))


def idle_contexts(memories: list[Memory]) -> int:
    """Bytes of a shared GPU that the roles keep while they wait."""
    return CUDA_CONTEXT * max(0, sum(memory.where == "GPU" for memory in memories) - 1)


def scorers(config: RunConfig) -> dict[str, ScorerSpec]:
    """The scorers of a run by their key."""
    slots = {
        "scorer": config.scorer,
        "evaluate.scorer": config.evaluate.scorer,
        "refresh.scorer": config.refresh.scorer,
    }
    return {slot: spec for slot, spec in slots.items() if spec is not None}


def with_inner(slots: Mapping[str, ScorerSpec]) -> Iterator[tuple[str, ScorerSpec]]:
    """Every scorer, with those that it wraps and the members of ensembles."""
    for slot, spec in slots.items():
        yield slot, spec
        yield from with_inner(inner_scorers(slot, spec))


def inner_scorers(slot: str, spec: ScorerSpec) -> dict[str, ScorerSpec]:
    if isinstance(spec, Ensemble):
        return {f"{slot}.members.{index}": member for index, member in enumerate(spec.members)}
    base = vars(spec).get("base")
    return {} if base is None else {f"{slot}.base": base}
