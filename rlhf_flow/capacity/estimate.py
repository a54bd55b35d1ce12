"""The estimate of a run from config.json files, the tokenizer and the prompts. No weights are read."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from rlhf_flow.capacity import worker_memory as workers
from rlhf_flow.capacity.api_calls import Calls, calls
from rlhf_flow.capacity.cluster_needs import gpus
from rlhf_flow.capacity.disk import Disk, disk
from rlhf_flow.capacity.fit import Room, misfits
from rlhf_flow.capacity.flops import Compute, of_update
from rlhf_flow.capacity.learner_memory import host_memory, learner_memory, trained
from rlhf_flow.capacity.learner_memory import plans as plans_learner
from rlhf_flow.capacity.measured_rate import measured_rate
from rlhf_flow.capacity.model_shape import Shape, shape_of
from rlhf_flow.capacity.process_memory import LIBRARIES, MIB, Memory, size_text
from rlhf_flow.capacity.wall_time import Seconds, seconds
from rlhf_flow.capacity.workload import Work, steps_of, work_of
from rlhf_flow.cluster.joining import SPILL_AT, store_mib
from rlhf_flow.config.compatibility import colocated
from rlhf_flow.config.learning_rate import rated, stands_still
from rlhf_flow.config.schema import RunConfig, part_name
from rlhf_flow.config.threads import threaded
from rlhf_flow.system import machine
from rlhf_flow.system.errors import ConfigError
from rlhf_flow.system.hub import check_model


@dataclass(frozen=True)
class Each:
    """What each of several nodes needs, if processes are spread evenly."""

    nodes: int
    gpus: int
    host: float  # bytes


@dataclass(frozen=True)
class Planned:
    """The estimate. Sizes are in bytes."""

    shape: Shape
    work: Work
    steps: int  # optimizer steps of a round, at most
    last_batch: int  # pairs of the last step of an epoch
    threads: dict[str, int]  # CPU threads per process of each role
    memories: list[Memory]
    libraries: int  # of all processes, on the host
    object_store: float
    host: float  # of all processes
    each: Each | None  # None: one node
    room: Room
    disk: Disk
    calls: list[Calls]
    compute: Compute
    seconds: Seconds | None
    problems: list[ValueError]
    notes: list[str]


def plan(config: RunConfig, room: Room, *, like: Path | None = None) -> Planned:
    """Raises ValueError if model or prompts do not load, or if engine or learner have no estimate."""
    for slot, known in (("learner", plans_learner(config)), ("engine", workers.plans(config))):
        if not known:
            name = part_name(slot, getattr(config, slot))
            raise ConfigError(f"{slot}={name} has no model, so its memory cannot be estimated", "start the run")
    model = config.model
    check_model("model.path", model.path)
    shape = shape_of(model.path, revision=model.revision, trust_remote_code=model.trust_remote_code)
    config = threaded(rated(config, shape.parameters), machine.cores())
    work = work_of(config, config.prompts.open(model.tokenizer(), seed=config.seed))
    memories = _memories(config, shape, work, on_gpu=room.gpus > 0)
    libraries = _libraries(config, memories)
    nodes = config.cluster.nodes
    policies = workers.object_store(config, trained(config, shape))
    store = nodes * policies
    host = libraries + store + sum(one.processes * one.bytes for one in memories if one.where == "host")
    steps, last = steps_of(config, work)
    requests = calls(config, work)
    problems = [*misfits(config, shape, work, memories, host, room), *_spills(config, policies)]
    for limit in (limit for one in requests for limit in one.over):
        problems.append(ConfigError(limit, "raise it, or use fewer rounds, prompts or answers"))
    taken = None if like is None else seconds(config, shape, work, like)
    return Planned(
        shape=shape,
        work=work,
        steps=steps,
        last_batch=last,
        threads=_threads(config),
        memories=memories,
        libraries=libraries,
        object_store=store,
        host=host,
        each=None if nodes == 1 else Each(nodes, math.ceil(gpus(config) / nodes) if room.gpus else 0, host / nodes),
        room=room,
        disk=disk(config, shape, work),
        calls=requests,
        compute=Compute(of_update(config, shape, work), None if like is None else measured_rate(like)),
        seconds=taken,
        problems=problems,
        notes=_notes(config, shape, work, steps, last),
    )


def _memories(config: RunConfig, shape: Shape, work: Work, *, on_gpu: bool) -> list[Memory]:
    engine = workers.engine_memory(config, shape, work, on_gpu=on_gpu)
    learner = learner_memory(config, shape, work, on_gpu=on_gpu)
    known, _ = workers.model_scorers(config)
    memories = [engine, learner, *(workers.scorer_memory(config, one, on_gpu=on_gpu) for one in known)]
    if on_gpu:
        waiting = [*workers.offloaded(memories)] if colocated(config) else []
        memories += [host_memory(config, shape, work), *waiting]
    return [*memories, workers.driver_memory(work)]


def _threads(config: RunConfig) -> dict[str, int]:
    known, _ = workers.model_scorers(config)
    scorers = {one.slot: one.spec.threads for one in known}
    return {"engine": config.engine.threads, "learner rank": config.learner.training.threads, **scorers}


def _libraries(config: RunConfig, memories: list[Memory]) -> int:
    if config.cluster.in_process:
        return LIBRARIES["torch"]
    names = {"engine": part_name("engine", config.engine), "learner rank": part_name("learner", config.learner)}
    processes = {one.role: one.processes for one in memories}
    return sum(number * LIBRARIES.get(names.get(role, role), LIBRARIES["torch"]) for role, number in processes.items())


def _notes(config: RunConfig, shape: Shape, work: Work, steps: int, last: int) -> list[str]:
    _, unknown = workers.model_scorers(config)
    notes = [f"{slot} loads a model of unknown size, which is not included." for slot in unknown]
    training = config.learner.training
    if config.refresh.every is not None:
        notes.append("refresh.every starts a second learner, for the scorer, which is not included.")
    if still := stands_still(config, shape.parameters, steps * config.rounds):
        notes.append(still)
    if shape.experts:
        notes.append("the model is a mixture of experts: its weights are exact, its activations are a rough estimate.")
    if steps and last < training.batch:
        notes.append(
            f"{work.pairs_learned} pairs make {steps // training.epochs} steps per epoch; the last has {last} of "
            f"{training.batch} pairs, which weigh more each. A batch that divides the pairs avoids this."
        )
    if training.batch < config.learner.ranks:
        notes.append(f"learner.training.batch={training.batch} leaves some of {config.learner.ranks} ranks idle.")
    return notes


def _spills(config: RunConfig, policies: float) -> Iterator[ConfigError]:
    """A problem if the object store that the run starts is smaller than the policies of a round."""
    given = config.cluster.object_store_mib
    if config.cluster.address is None and given is not None and policies > SPILL_AT * given * MIB:
        yield ConfigError(
            f"cluster.object_store_mib={given}: the policies of a round take {size_text(policies)}, and Ray writes to "
            f"disk what exceeds {SPILL_AT:.0%} of its object store",
            f"leave cluster.object_store_mib out, or set it to {store_mib(policies)}",
        )
