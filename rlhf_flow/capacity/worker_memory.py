"""What engines and scorers hold, the driver, and the object store between them. Letters as in `shape` and `learner`.

engine of transformers   d P weights (twice where mixtures are drawn); in a draw of R answers side by side, each of S
                         tokens, the cache 2 K G d R S, one layer of it once more while it grows, and 28 V R of
                         logits: two of 4 bytes from the network, two of 8 of the distribution, and the log-probs
vLLM                     d P weights, and `cache_bytes` on a CPU; on a GPU it takes gpu_memory_utilization of all
                         there is, whatever it needs. 12 V for each of max_num_seqs answers
either, opening          on a CPU the pages of the checkpoint's files, beside the weights that are read from them
scorer                   d P weights, and a forward pass over batch_tokens tokens
object store             d P for every version of the policy that a round names, on each node
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from rlhf_flow.capacity.activations import passing
from rlhf_flow.capacity.learner_memory import DTYPES
from rlhf_flow.capacity.model_shape import Shape, shape_of
from rlhf_flow.capacity.process_memory import MIB, Memory, Phase
from rlhf_flow.capacity.workload import Work
from rlhf_flow.config.schema import RunConfig
from rlhf_flow.engine.huggingface import HuggingFace
from rlhf_flow.engine.vllm.cache import cache_bytes
from rlhf_flow.engine.vllm.spec import VLLM
from rlhf_flow.scorer.models.classifier import Classifier
from rlhf_flow.scorer.models.ensemble import Ensemble
from rlhf_flow.scorer.models.preference_model import PreferenceModel

BATCHED_TOKENS = 8192  # of prompts that vLLM reads at once
SMALL_BATCH = 64 * MIB  # rows of a round in the driver's hands, at least


def plans(config: RunConfig) -> bool:
    """Whether this module knows the engine."""
    return isinstance(config.engine, HuggingFace | VLLM)


def engine_memory(config: RunConfig, shape: Shape, work: Work, *, on_gpu: bool) -> Memory:
    """Of an engine, where it computes; of vLLM on a GPU what it needs at least, with room for one sequence."""
    copies, d = 2 if config.sampler.needs_mixture else 1, DTYPES[config.model.dtype]
    weights = {"weights": copies * d * shape.parameters}
    opening = Phase("open", {**weights, "checkpoint": 0 if on_gpu else shape.stored * shape.parameters})
    if isinstance(config.engine, VLLM):
        split = config.engine.tensor_parallel
        rows = min(config.engine.max_num_seqs, work.prompts * work.drawn)
        sequence = copies * cache_of_a_token(config, shape) * work.positions
        longest = config.engine.max_model_len or work.positions
        token = copies * cache_of_a_token(config, shape)
        cache = sequence if on_gpu else cache_bytes(config.engine.kv_cache_mib, token=token, longest=longest)
        read = min(BATCHED_TOKENS, work.prompts * work.longest_prompt)
        passed = {"forward pass": passing(shape, read, "float32") * d / 4 + 12 * shape.vocabulary * rows}
        items = {**weights, "KV cache": cache, **passed}
        divided = {name: bytes / split for name, bytes in items.items()}
        opened = () if on_gpu else (opening,)
        return Memory("engine", "GPU" if on_gpu else "host", engines(config) * split, (Phase("draw", divided), *opened))
    rows = min(config.engine.batch, work.prompts * work.drawn)
    cache = copies * cache_of_a_token(config, shape) * rows * work.positions
    growing = cache / copies / max(1, shape.layers)
    draw = {**weights, "KV cache": cache + growing, "logits": 28 * shape.vocabulary * rows}
    phases = (opening, Phase("draw", draw))
    return Memory("engine", "GPU" if on_gpu else "host", engines(config), phases)


def cache_of_a_token(config: RunConfig, shape: Shape) -> int:
    """Bytes of keys and values in all layers."""
    return 2 * shape.layers * shape.keys * DTYPES[config.model.dtype]


def engines(config: RunConfig) -> int:
    return int(vars(config.cluster).get("engines", 1))


def nodes(config: RunConfig) -> int:
    return int(vars(config.cluster).get("nodes", 1))


@dataclass(frozen=True)
class Judging:
    """A scorer with a model, by the slot that it stands in."""

    slot: str
    spec: Classifier | PreferenceModel


def judges(config: RunConfig) -> tuple[list[Judging], list[str]]:
    """The scorers whose models are planned for; and the slots of others that load one, of which nothing is known."""
    slots = {
        "scorer": config.scorer,
        "evaluate.scorer": config.evaluate.scorer,
        "refresh.scorer": config.refresh.scorer,
    }
    known, unknown = [], []
    for slot, part in with_inner(slots):
        if isinstance(part, Classifier | PreferenceModel):
            known.append(Judging(slot, part))
        elif part.loads_model and not {"base", "members"} & set(vars(part)):  # type: ignore[attr-defined]  # a ScorerSpec
            unknown.append(slot)
    return known, unknown


def scorer_memory(config: RunConfig, judging: Judging, *, on_gpu: bool) -> Memory:
    """Raises ValueError where the checkpoint has no configuration."""
    spec = judging.spec
    head = isinstance(spec, Classifier)
    shape = shape_of(spec.path, revision=spec.revision, trust_remote_code=spec.trust_remote_code, head=head)
    weights = {"weights": DTYPES[spec.dtype] * shape.parameters}
    numeric = "float32" if spec.dtype == "float32" else "bfloat16"
    phases = (
        Phase("open", weights),
        Phase("score", {**weights, "forward pass": passing(shape, spec.batch_tokens, numeric)}),
    )
    number = int(vars(config.cluster).get("scorers", 1))
    return Memory(judging.slot, "GPU" if on_gpu else "host", number, phases)


def driver_memory(work: Work) -> Memory:
    """The rows of a round: tokens and log-probs, and as much again while they are written."""
    rows = 2 * work.answers_scored * (work.longest_prompt + work.longest_answer) * 8
    return Memory("driver", "host", 1, (Phase("round", {"rows of a round": max(rows, SMALL_BATCH)}),))


def object_store(config: RunConfig, shape: Shape) -> float:
    """Bytes of the policies that stay in Ray's object store: those that a round names, and the one it publishes."""
    names = {"objective": config.objective.needs.anchors, "sampler": config.sampler.roles}
    most = 0
    for round in range(1, config.rounds + 1):
        plan = config.timeline.at(round, ())
        anchors = {plan.anchors[name] for name in names["objective"]}
        sampled = {plan.samplers[role] for role in names["sampler"] if role not in plan.averages}
        most = max(most, len((anchors | sampled | {plan.init}) - {0}) + len(plan.averages) + 1)
    return most * DTYPES[config.model.dtype] * shape.parameters


def with_inner(slots: Mapping[str, object]) -> Iterator[tuple[str, object]]:
    """Every scorer, those inside of others, and the members of ensembles."""
    for slot, part in slots.items():
        if part is None:
            continue
        yield slot, part
        inner = {f"{slot}.base": vars(part)["base"]} if "base" in vars(part) else {}
        if isinstance(part, Ensemble):
            inner |= {f"{slot}.members.{at}": member for at, member in enumerate(part.members)}
        yield from with_inner(inner)
