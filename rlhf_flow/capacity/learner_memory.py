"""What a rank of the learner holds in each phase of a round.

Letters: P parameters, T of them trained (all, or those of adapters), N ranks, w bytes of a weight of the forward pass
(2 under DeepSpeed's bfloat16, else 4), d bytes of a published weight, m moments (2 for AdamW, 0 for SGD).

    backend        weights         masters  moments      gradients     in the optimizer's step
    torch          4 P             -        4 m T        4 T           one parameter's update (CPU), 4 T (GPU)
    ZeRO 0         4 P             -        4 m T        4 T           the same
    ZeRO 1         w P             4 T/N    4 m T/N      4 T           4 T/N more gradients, and the update
    ZeRO 2         w P             4 T/N    4 m T/N      4 T/N         the same
    ZeRO 3         w P/N           4 T/N    4 m T/N      4 T/N         the same; in a pass up to 1e9 gathered weights

What ZeRO moves from the GPU to the host is in `rlhf_flow.capacity.zero_offload`.

Phases: `open` loads the checkpoint, whose pages are there as well; `anchors` reads an anchor that is not held, or the
weights held as they are rounded in what is published: those that are trained are set aside (w T, w T/N under ZeRO 3),
and for another anchor a checkpoint is read, tensor by tensor; `backward` is a pass over the longest micro-batch; `step`
is the optimizer, and AdamW's update takes two tensors of the size of what it moves; `save` copies what rank 0 publishes
(d P, or a bucket of it on a cluster) and each rank's share of weights and moments to the host. ZeRO 3 keeps its
gradients from one pass to the next, and so does every stage whose optimizer is on the host.
"""

from __future__ import annotations

from dataclasses import dataclass, fields

from rlhf_flow.capacity.activations import activations, logits, passing
from rlhf_flow.capacity.model_shape import Shape
from rlhf_flow.capacity.process_memory import FRAGMENTS, Memory, Phase
from rlhf_flow.capacity.workload import Work
from rlhf_flow.capacity.zero_offload import Zero, zero
from rlhf_flow.cluster.ray import Ray
from rlhf_flow.config.schema import RunConfig
from rlhf_flow.learner.deepspeed import DeepSpeed
from rlhf_flow.learner.torch import Torch

DTYPES = {"float32": 4, "bfloat16": 2}


@dataclass(frozen=True)
class Held:
    """Bytes that a rank holds between passes, on GPU and host together, and what a pass and a step add."""

    weights: float
    masters: float
    moments: float
    gradients: float
    stepping: float  # in the optimizer's step, besides
    gathered: float  # in a pass
    buckets: float  # through which gradients travel
    numeric: str  # column of `activations.KEPT`
    element: int  # w
    stays: bool = False  # whether the gradients' memory is held between passes


def plans(config: RunConfig) -> bool:
    """Whether this module knows the learner: one of PyTorch, or of DeepSpeed."""
    return isinstance(config.learner, Torch | DeepSpeed)


def held(config: RunConfig, shape: Shape, *, on_gpu: bool) -> Held:
    learner, training, told = config.learner, config.learner.training, zero(config, on_gpu=on_gpu)
    p, t, n = shape.parameters, trained(config, shape), learner.ranks
    m = len(training.optimizer.moments)
    low = training.precision == "bfloat16"
    whole = 4 * t if on_gpu else 2 * 4 * shape.largest  # the update: of all at once on a GPU, one by one on a CPU
    stage = learner.zero_stage if isinstance(learner, DeepSpeed) else 0
    if stage == 0:
        numeric = "autocast" if low else "float32"
        update = whole if m else 0
        return Held(4 * p, 0, 4 * m * t, 4 * t, update, 0, _buckets(config, told, on_gpu=on_gpu, t=t, w=4), numeric, 4)
    w = 2 if low else 4
    update = 2 * 4 * t / n if m else 0  # of one flat tensor, that is all parameters
    gradients, stepping = 4 * t / (1 if stage == 1 else n), 4 * t / n + update
    if told.optimizer:
        gradients = (8 if stage == 3 else 4 + 2 * w) * t / n
        stepping = min(update, 2 * 4 * told.group) if stage == 3 else update
    return Held(
        weights=w * p / (n if stage == 3 else 1),
        masters=4 * t / n,
        moments=4 * m * t / n,
        gradients=gradients,
        stepping=stepping,
        gathered=w * min(p, told.live) if stage == 3 else 0,
        buckets=_buckets(config, told, on_gpu=on_gpu, t=t, w=w),
        numeric="bfloat16" if low else "float32",
        element=w,
        stays=stage == 3 or told.optimizer,
    )


def learner_memory(config: RunConfig, shape: Shape, work: Work, *, on_gpu: bool) -> Memory:
    """Of a rank, where it computes. On a CPU all of it is on the host."""
    away = zero(config, on_gpu=on_gpu).away if on_gpu else frozenset()
    phases = tuple(phase.without(away) for phase in _phases(config, shape, work, on_gpu=on_gpu))
    small = {} if on_gpu else _in_the_heap(config, shape)
    return Memory("learner rank", "GPU" if on_gpu else "host", config.learner.ranks, phases, small)


def _phases(config: RunConfig, shape: Shape, work: Work, *, on_gpu: bool) -> list[Phase]:
    one, training = held(config, shape, on_gpu=on_gpu), config.learner.training
    p, n = shape.parameters, config.learner.ranks
    state = {"weights": one.weights, "master weights": one.masters, "moments": one.moments}
    if one.stays:
        state["gradients"] = one.gradients
    rows = work.sides * min(training.micro_batch, -(-training.batch // n))
    tokens, answers = rows * work.positions, rows * work.longest_answer
    kept = activations(shape, tokens, one.numeric, checkpointing=training.gradient_checkpointing)
    head = logits(shape, answers, training.chunk)
    others, rounds = not _always_held(config), config.model.dtype != "float32"
    aside = {"weights set aside": one.weights * trained(config, shape) / p}
    passed = {"gathered weights": one.gathered, "forward pass": passing(shape, tokens, one.numeric) + head}
    phases = [
        # DeepSpeed brings the whole model to the GPU before ZeRO 3 cuts it.
        Phase(
            "open", {"model": one.element * p} if on_gpu else {"weights": one.weights, "checkpoint": shape.stored * p}
        ),
        Phase(
            "anchors",
            {**state, **(aside if others or rounds else {}), **passed} | ({} if on_gpu else published(config, shape)),
        ),
        Phase(
            "learn: backward",
            {**state, "gradients": one.gradients, "gathered weights": one.gathered, "buckets": one.buckets}
            | {"activations": kept, f"logits (chunk {training.chunk})": head},
        ),
        Phase("learn: step", {**state, "gradients": one.gradients, "optimizer's step": one.stepping}),
        Phase("save", state if on_gpu else {**state, **copies(config, shape, one)}),
    ]
    if not on_gpu and others:
        phases.insert(1, Phase("anchors: load", {**state, **aside, **published(config, shape), **_read(shape)}))
    return phases


def _read(shape: Shape) -> dict[str, float]:
    """Tensor by tensor of a checkpoint: the pages of its file, and a copy."""
    return {"checkpoint": 2 * shape.stored * shape.largest}


def _in_the_heap(config: RunConfig, shape: Shape) -> dict[str, float]:
    """`Memory.small`: activations are many small tensors, DeepSpeed's buffers are each one large one."""
    pieces = ["gradients", "weights set aside", "published weights", "checkpoint", "copy of weights and moments"]
    if isinstance(config.learner, Torch):
        pieces += ["weights", "moments", "optimizer's step"]
    return {**dict.fromkeys(pieces, shape.small), "activations": FRAGMENTS, "forward pass": FRAGMENTS}


def host_memory(config: RunConfig, shape: Shape, work: Work) -> Memory:
    """Of a rank that computes on a GPU, on its host."""
    one, told = held(config, shape, on_gpu=True), zero(config, on_gpu=True)
    away = {phase.name: phase.only(told.away) for phase in _phases(config, shape, work, on_gpu=True)}
    rounding = told.rounding(trained(config, shape) / config.learner.ranks, one.element)
    if rounding:
        away = {name: {**items, "pinned memory, rounded up": rounding} for name, items in away.items()}
    first = {name: bytes for name, bytes in away["save"].items() if name != "moments"}  # they come with the first step
    phases = [Phase("open", {"checkpoint": (4 + shape.stored) * shape.parameters})]
    phases.append(Phase("start", {**first, **_read(shape)}))
    if not _always_held(config):
        phases.append(Phase("anchors: load", {**away["anchors"], **_read(shape), **published(config, shape)}))
    phases += [Phase(name, away[name]) for name in ("anchors", "learn: backward", "learn: step") if away[name]]
    phases.append(Phase("save", {**away["save"], **copies(config, shape, one)}))
    return Memory("learner rank", "host", config.learner.ranks, tuple(phases))


def published(config: RunConfig, shape: Shape) -> dict[str, float]:
    """In one process they stay; on a cluster they leave in buckets, of which there is one at a time."""
    size = DTYPES[config.model.dtype] * shape.parameters
    return {"published weights": min(size, config.cluster.transfer.bucket) if isinstance(config.cluster, Ray) else size}


def copies(config: RunConfig, shape: Shape, one: Held) -> dict[str, float]:
    """What `save` adds on the host: what is published, and a rank's share of the float32 weights and moments."""
    n, m = config.learner.ranks, len(config.learner.training.optimizer.moments)
    share = 4 * (shape.parameters + m * trained(config, shape)) / n
    return {**published(config, shape), "copy of weights and moments": share}


def trained(config: RunConfig, shape: Shape) -> int:
    """T."""
    if "lora" not in {field.name for field in fields(config.learner)} or not config.learner.lora.rank:
        return shape.parameters
    return int(config.learner.lora.rank * shape.ends)


def _always_held(config: RunConfig) -> bool:
    """Whether every anchor of every round is the policy that the round starts from."""
    plans = [config.timeline.at(round, ()) for round in range(1, min(config.rounds, 3) + 1)]
    names = config.objective.needs.anchors
    return all(plan.anchors[name] == plan.init for plan in plans for name in names)


def _buckets(config: RunConfig, told: Zero, *, on_gpu: bool, t: int, w: int) -> float:
    """DeepSpeed's buffer for gradients on their way: taken whole on a GPU, and as far as it is written to on a CPU."""
    learner = config.learner
    if not isinstance(learner, DeepSpeed):
        return 0
    buffers = 2 if on_gpu and learner.zero_stage < 3 and told.overlap else 1
    return buffers * w * (told.bucket if on_gpu and learner.zero_stage else min(told.bucket, t))
