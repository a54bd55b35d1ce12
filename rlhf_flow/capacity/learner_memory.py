"""The memory of a learner rank in each phase of a round.

Letters: P parameters, T of them trained (all, or those of adapters), N ranks, w bytes of a weight in the forward pass
(2 with DeepSpeed's bfloat16, else 4), d bytes of a published weight, m moments (2 for AdamW, 0 for SGD).

    backend        weights         masters  moments      gradients     in the optimizer's step
    torch          4 P             -        4 m T        4 T           -
    FSDP           4 P/N           -        4 m T/N      4 T/N         -; in a pass two layers, or the embeddings
    ZeRO 0         4 P             -        4 m T        4 T           -
    ZeRO 1         w P             4 T/N    4 m T/N      4 T           4 T/N of gradients
    ZeRO 2         w P             4 T/N    4 m T/N      4 T/N         the same
    ZeRO 3         w P/N           4 T/N    4 m T/N      4 T/N         the same; in a pass up to 1e9 gathered weights

For offload from GPU to host see `rlhf_flow.capacity.zero_offload`.

Phases:
- open: load the checkpoint, whose pages are in memory too. FSDP and ZeRO 3 load slices.
- anchors: compute log-probs of an anchor. If its weights differ from those held (another policy, or bfloat16 rounding),
  the trained weights are copied away (w T, w T/N with ZeRO 3) and the anchor's checkpoint is read tensor by tensor.
- learn: backward: a pass over the longest micro-batch.
- learn: step: the optimizer, which is fused: it takes no temporary tensors.
- save: copy to the host what rank 0 publishes (d P, or one bucket of it on a cluster), and each rank's share of weights
  and moments.
ZeRO 3 keeps its gradients between passes, and so does every stage whose optimizer is on the host.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from rlhf_flow.capacity.activations import Tokens, activations, logits, passing
from rlhf_flow.capacity.model_shape import Shape
from rlhf_flow.capacity.process_memory import MARGIN, Memory, Phase
from rlhf_flow.capacity.workload import Work
from rlhf_flow.capacity.zero_offload import Zero, zero
from rlhf_flow.cluster.ray import Ray
from rlhf_flow.config.schema import RunConfig
from rlhf_flow.learner.deepspeed import DeepSpeed
from rlhf_flow.learner.fsdp import FSDP
from rlhf_flow.learner.torch import Torch

DTYPES = {"float32": 4, "bfloat16": 2}


@dataclass(frozen=True)
class Held:
    """Bytes of a rank on GPU and host together: between passes, and what a pass and a step add."""

    weights: float
    masters: float
    moments: float
    gradients: float
    stepping: float  # added by the optimizer's step
    gathered: float  # added by a pass
    buckets: float  # of the reduction of gradients
    numeric: str  # column of `activations.KEPT`
    element: int  # w
    stays: bool = False  # whether gradients stay allocated between passes


def plans(config: RunConfig) -> bool:
    """Whether this module can estimate the learner."""
    return isinstance(config.learner, Torch | DeepSpeed | FSDP)


def held(config: RunConfig, shape: Shape, *, on_gpu: bool) -> Held:
    learner, training, settings = config.learner, config.learner.training, zero(config, on_gpu=on_gpu)
    p, t, n = shape.parameters, trained(config, shape), learner.ranks
    m = len(training.optimizer.moments)
    low = training.on(_device(on_gpu)).precision == "bfloat16"
    if isinstance(learner, FSDP):
        return _fully_sharded(shape, n, m, t, low=low)
    stage = learner.zero_stage if isinstance(learner, DeepSpeed) else 0
    if stage == 0:
        numeric, buckets = "autocast" if low else "float32", _buckets(config, settings, on_gpu=on_gpu, t=t, w=4)
        return Held(4 * p, 0, 4 * m * t, 4 * t, 0, 0, buckets, numeric, 4)
    w = 2 if low else 4
    gradients, stepping = 4 * t / (1 if stage == 1 else n), 4 * t / n
    if settings.optimizer:
        gradients, stepping = (8 if stage == 3 else 4 + 2 * w) * t / n, 0
    return Held(
        weights=w * p / (n if stage == 3 else 1),
        masters=4 * t / n,
        moments=4 * m * t / n,
        gradients=gradients,
        stepping=stepping,
        gathered=w * min(p, settings.live) if stage == 3 else 0,
        buckets=_buckets(config, settings, on_gpu=on_gpu, t=t, w=w),
        numeric="bfloat16" if low else "float32",
        element=w,
        stays=stage == 3 or settings.optimizer,
    )


def _fully_sharded(shape: Shape, n: int, m: int, t: int, *, low: bool) -> Held:
    """FSDP: a layer and the next one are gathered; the embeddings, too, at the ends of a pass."""
    w = 2 if low else 4
    embeddings = shape.parameters - shape.linear + shape.vocabulary * shape.width
    layer = (shape.parameters - embeddings) / max(1, shape.layers)
    unit = max(layer, embeddings)
    return Held(
        weights=4 * shape.parameters / n,
        masters=0,
        moments=4 * m * t / n,
        gradients=4 * t / n,
        stepping=0,
        gathered=w * (unit + layer),
        buckets=(w + 4) * unit,  # gradients of the unit, and the buffer that sums them over ranks in float32
        numeric="bfloat16" if low else "float32",
        element=w,
        stays=True,
    )


def _device(on_gpu: bool) -> str:
    return "cuda" if on_gpu else "cpu"


def learner_memory(config: RunConfig, shape: Shape, work: Work, *, on_gpu: bool) -> Memory:
    """Memory of a rank on the device that it computes on."""
    on_host = zero(config, on_gpu=on_gpu).on_host if on_gpu else frozenset()
    phases = tuple(phase.without(on_host) for phase in _phases(config, shape, work, on_gpu=on_gpu))
    if on_gpu:
        return Memory("learner rank", "GPU", config.learner.ranks, phases)
    return Memory("learner rank", "host", config.learner.ranks, phases, MARGIN)


def _phases(config: RunConfig, shape: Shape, work: Work, *, on_gpu: bool) -> list[Phase]:
    one, training = held(config, shape, on_gpu=on_gpu), config.learner.training.on(_device(on_gpu))
    p = shape.parameters
    state = {"weights": one.weights, "master weights": one.masters, "moments": one.moments}
    if one.stays:
        state["gradients"] = one.gradients
    tokens, passes = forward(config, work, on_gpu=on_gpu)
    saved = activations(shape, tokens, one.numeric, training.recomputes(p))
    head = logits(shape, tokens.answers, training.chunk, one.numeric)
    others, rounds = not _always_held(config), config.model.dtype != "float32"
    copied = {"weights set aside": one.weights * trained(config, shape) / p}
    passed = {"gathered weights": one.gathered, "forward pass": passing(shape, tokens.line, one.numeric) + head}
    phases = [
        Phase("open", _opened(config, shape, one, on_gpu=on_gpu)),
        Phase(
            "anchors",
            {**state, **(copied if others or rounds else {}), **passed} | ({} if on_gpu else published(config, shape)),
        ),
        *_backward(shape, one, state, saved, head, passes),
        Phase("learn: step", {**state, "gradients": one.gradients, "optimizer's step": one.stepping}),
        Phase("save", state if on_gpu else {**state, **copies(config, shape, one)}),
    ]
    if not on_gpu and others:
        phases.insert(1, Phase("anchors: load", {**state, **copied, **published(config, shape), **_read(shape)}))
    return phases


def _backward(shape: Shape, one: Held, state: dict[str, float], saved: int, head: int, passes: int) -> Iterator[Phase]:
    """The two widest moments of a backward pass, which frees a layer's activations when it has its gradients."""
    several = passes > 1 or one.stays
    of_output = one.element * shape.vocabulary * shape.width
    yield Phase(
        "learn: backward",
        {**state, "gradients": one.gradients if several else 0, "gathered weights": one.gathered}
        | {"buckets": one.buckets, "activations": saved, "output layer": head + of_output},
    )
    if not several:
        first = saved / max(1, shape.layers)
        yield Phase("learn: end of backward", {**state, "gradients": one.gradients, "activations": first})


def forward(config: RunConfig, work: Work, *, on_gpu: bool) -> tuple[Tokens, int]:
    """The tokens of a rank's largest forward pass, and the passes of an optimizer step, if all lengths are greatest."""
    learner, device = config.learner, _device(on_gpu)
    training, shares = learner.training.on(device), not learner.head.outputs
    prompt, answer, sides = work.longest_prompt, work.longest_answer, work.sides
    of_pair = prompt + sides * answer if shares else sides * work.positions
    total, limit = training.batch * of_pair, training.tokens_per_batch
    assert limit is not None, "Training.on sets it"
    needed = max(-(-total // limit), -(-training.batch // training.micro_batch) if training.micro_batch else 1)
    replicas = learner.ranks // learner.sequence_ranks
    even = -(
        -training.batch // (-(-needed // replicas) * replicas)
    )  # pairs of a pass, as `rlhf_flow.learner.batching.deal`
    pairs = min(even, max(1, limit // of_pair), training.micro_batch or even)
    if shares:
        tokens = Tokens.shared(pairs, prompt, sides, answer, gathers=not on_gpu).share(learner.sequence_ranks)
    else:
        tokens = Tokens.padded(sides * pairs, work.positions)
    return tokens, -(-training.batch // (pairs * replicas))


def _opened(config: RunConfig, shape: Shape, one: Held, *, on_gpu: bool) -> dict[str, float]:
    """Backends that shard give one layer after another memory; others load the checkpoint and move it."""
    if _shards(config):
        return {"weights": one.weights, "one layer": 4 * shape.parameters / max(1, shape.layers)}
    if on_gpu:
        return {"model": one.element * shape.parameters}
    return {"weights": one.weights, "checkpoint": shape.stored * shape.parameters}


def _shards(config: RunConfig) -> bool:
    """Whether no rank ever holds the whole model (`rlhf_flow.learner.meta_init`)."""
    learner = config.learner
    return isinstance(learner, FSDP) or (isinstance(learner, DeepSpeed) and learner.zero_stage == 3)


def _read(shape: Shape) -> dict[str, float]:
    """A checkpoint read tensor by tensor: the pages of its file, and a copy."""
    return {"checkpoint": 2 * shape.stored * shape.largest}


def host_memory(config: RunConfig, shape: Shape, work: Work) -> Memory:
    """Host memory of a rank that computes on a GPU."""
    one, settings = held(config, shape, on_gpu=True), zero(config, on_gpu=True)
    offloaded = {phase.name: phase.only(settings.on_host) for phase in _phases(config, shape, work, on_gpu=True)}
    first = {name: bytes for name, bytes in offloaded["save"].items() if name != "moments"}  # allocated by step 1
    phases = [] if _shards(config) else [Phase("open", {"checkpoint": (4 + shape.stored) * shape.parameters})]
    phases.append(Phase("start", {**first, **_read(shape)}))
    if not _always_held(config):
        phases.append(Phase("anchors: load", {**offloaded["anchors"], **_read(shape), **published(config, shape)}))
    phases += [
        Phase(name, offloaded[name]) for name in ("anchors", "learn: backward", "learn: step") if offloaded[name]
    ]
    phases.append(Phase("save", {**offloaded["save"], **copies(config, shape, one)}))
    return Memory("learner rank", "host", config.learner.ranks, tuple(phases), MARGIN)


def published(config: RunConfig, shape: Shape) -> dict[str, float]:
    """All published weights in one process; one bucket of them on a cluster."""
    size = DTYPES[config.model.dtype] * shape.parameters
    return {"published weights": min(size, config.cluster.transfer.bucket) if isinstance(config.cluster, Ray) else size}


def copies(config: RunConfig, shape: Shape, one: Held) -> dict[str, float]:
    """What `save` adds on the host: published weights, and a rank's share of the float32 weights and moments."""
    n, m = config.learner.ranks, len(config.learner.training.optimizer.moments)
    share = 4 * (shape.parameters + m * trained(config, shape)) / n
    return {**published(config, shape), "copy of weights and moments": share}


def trained(config: RunConfig, shape: Shape) -> int:
    """T."""
    return int(config.learner.lora.rank * shape.ends) or shape.parameters


def _always_held(config: RunConfig) -> bool:
    """Whether every anchor is the policy that its round starts from."""
    plans = [config.timeline.at(round, ()) for round in range(1, min(config.rounds, 3) + 1)]
    names = config.objective.needs.anchors
    return all(plan.anchors.get(name) == plan.init for plan in plans for name in names)


def _buckets(config: RunConfig, settings: Zero, *, on_gpu: bool, t: int, w: int) -> float:
    """DeepSpeed's reduction buffers: allocated whole on a GPU; on a CPU only pages that are written count."""
    learner = config.learner
    if not isinstance(learner, DeepSpeed):
        return 0
    buffers = 2 if on_gpu and learner.zero_stage < 3 and settings.overlap else 1
    return buffers * w * (settings.bucket if on_gpu and learner.zero_stage else min(settings.bucket, t))
