"""The whole plan of a configuration, from config.json files, the tokenizer and the prompts; no weight is read."""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path

from rlhf_flow.capacity import worker_memory as roles
from rlhf_flow.capacity.api_calls import Calls, calls
from rlhf_flow.capacity.colocated import aside, handing_over
from rlhf_flow.capacity.disk import Disk, disk
from rlhf_flow.capacity.fit import Room, misfits
from rlhf_flow.capacity.learner_memory import host_memory, learner_memory
from rlhf_flow.capacity.learner_memory import plans as plans_learner
from rlhf_flow.capacity.model_shape import Shape, shape_of
from rlhf_flow.capacity.process_memory import LIBRARIES, MIB, Memory, told
from rlhf_flow.capacity.wall_time import Seconds, seconds
from rlhf_flow.capacity.workload import Work, steps_of, work_of
from rlhf_flow.cluster.ray import Ray
from rlhf_flow.config import compatibility as together
from rlhf_flow.config.learning_rate import rated, stands_still
from rlhf_flow.config.schema import RunConfig, part_name


@dataclass(frozen=True)
class Each:
    """What each of several nodes has to give, where processes divide evenly."""

    nodes: int
    gpus: int
    host: float


@dataclass(frozen=True)
class Planned:
    """Sizes in bytes, unless they say otherwise."""

    shape: Shape
    work: Work
    steps: int  # optimizer steps of a round, at most
    last_batch: int  # pairs of the last step of an epoch
    idle: int  # places of that step's micro-batches that no pair takes, over all ranks
    memories: list[Memory]
    libraries: int  # of all processes together, on the host
    object_store: float
    host: float  # all processes together
    each: Each | None  # None: there is one node
    room: Room
    disk: Disk
    calls: list[Calls]
    seconds: Seconds | None
    problems: list[str]
    notes: list[str]


def plan(config: RunConfig, there: Room, *, like: Path | None = None) -> Planned:
    """Raises ValueError for a model or prompts that are not there, and for parts whose memory nobody can tell."""
    for slot, known in (("learner", plans_learner(config)), ("engine", roles.plans(config))):
        if not known:
            name = part_name(slot, getattr(config, slot))
            raise ValueError(f"{slot}={name} has no model whose memory could be planned. Just run it.")
    model = config.model
    trust = model.trust_remote_code
    shape = shape_of(model.path, revision=model.revision, trust_remote_code=trust)
    config = rated(config, shape.parameters)
    work = work_of(config, config.prompts.open(model.tokenizer(), seed=config.seed))
    on_gpu = there.gpus > 0
    memories, notes = _memories(config, shape, work, on_gpu=on_gpu)
    libraries = _libraries(config, memories)
    nodes = roles.nodes(config)
    store = 0.0 if config.cluster.in_process else nodes * roles.object_store(config, shape)
    host = libraries + store + sum(one.processes * one.bytes for one in memories if one.where == "host")
    steps, last = steps_of(config, work)
    asked = calls(config, work)
    problems = misfits(config, shape, work, memories, host, there)
    over = [cap for one in asked for cap in one.over]
    problems += [f"{cap}. Raise it, or ask for less: fewer rounds, prompts or answers." for cap in over]
    wave = config.learner.ranks * config.learner.training.micro_batch
    return Planned(
        shape=shape,
        work=work,
        steps=steps,
        last_batch=last,
        idle=-last % wave,
        memories=memories,
        libraries=libraries,
        object_store=store,
        host=host,
        each=None if nodes == 1 else Each(nodes, math.ceil(_gpus(config, memories) / nodes), host / nodes),
        room=there,
        disk=disk(config, shape, work),
        calls=asked,
        seconds=None if like is None else seconds(config, shape, work, like),
        problems=problems,
        notes=[*notes, *_notes(config, shape, work, store, steps, last)],
    )


def _memories(config: RunConfig, shape: Shape, work: Work, *, on_gpu: bool) -> tuple[list[Memory], list[str]]:
    memories = [roles.engine_memory(config, shape, work, on_gpu=on_gpu)]
    memories.append(learner_memory(config, shape, work, on_gpu=on_gpu))
    known, unknown = roles.judges(config)
    memories += [roles.scorer_memory(config, one, on_gpu=on_gpu) for one in known]
    if on_gpu and isinstance(config.cluster, Ray) and config.cluster.transfer.shares:
        engine, learner, *others = memories
        memories = [engine, handing_over(learner, engine, config.cluster.transfer.bucket), *others]
    if on_gpu:
        beside = [*aside(memories)] if together.colocated(config) else []
        memories += [host_memory(config, shape, work), *beside]
    memories.append(roles.driver_memory(work))
    notes = [f"{slot} loads a model of which nothing is known here: add its memory yourself." for slot in unknown]
    if config.refresh.every is not None:
        notes.append("refresh.every opens a second learner, for the judge: it is not in this plan.")
    return memories, notes


def _gpus(config: RunConfig, memories: list[Memory]) -> float:
    """That all roles take: each has its own, or all have the same in turns."""
    taken = [one.processes for one in memories if one.where == "GPU"]
    if together.colocated(config):
        return max(taken, default=0)
    return sum(taken) * float(vars(config.cluster).get("gpu_share", 1.0))


def _libraries(config: RunConfig, memories: list[Memory]) -> int:
    if config.cluster.in_process:
        return LIBRARIES["torch"]
    chosen = {"engine": part_name("engine", config.engine), "learner rank": part_name("learner", config.learner)}
    processes = {one.role: one.processes for one in memories}
    kinds = {role: chosen.get(role, role) for role in processes}
    return sum(number * LIBRARIES.get(kinds[role], LIBRARIES["torch"]) for role, number in processes.items())


def _notes(config: RunConfig, shape: Shape, work: Work, store: float, steps: int, last: int) -> list[str]:
    notes = []
    training = config.learner.training
    if still := stands_still(config, shape.parameters, steps * config.rounds):
        notes.append(still)
    if shape.experts:
        notes.append("the model is a mixture of experts: its weights are counted, its activations are a guess.")
    if steps and last < training.batch:
        notes.append(
            f"{work.pairs_learned} pairs make {steps // training.epochs} steps an epoch, the last one of {last} of "
            f"{training.batch} pairs. Its pairs count more each; a batch that divides the pairs evens it out."
        )
    if training.batch < config.learner.ranks:
        notes.append(f"learner.training.batch={training.batch} leaves ranks idle: there are {config.learner.ranks}.")
    limit = vars(config.cluster).get("object_store_mib") if roles.nodes(config) == 1 else None  # of one started here
    if limit is not None and config.cluster.address is None and store > limit * MIB:
        notes.append(
            f"the policies of a round take {told(store)} of the object store, which has {told(limit * MIB)} and writes "
            f"the rest to disk. Try cluster.object_store_mib={int(store / MIB * 1.2) + 1}."
        )
    return notes
