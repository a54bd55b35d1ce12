"""What will not fit, and what to change: found by planning the change itself."""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass, replace

from rlhf_flow.capacity.colocated import contexts
from rlhf_flow.capacity.learner_memory import learner_memory
from rlhf_flow.capacity.model_shape import Shape
from rlhf_flow.capacity.process_memory import CUDA_CONTEXT, Memory, told
from rlhf_flow.capacity.worker_memory import cache_of_a_token, nodes
from rlhf_flow.capacity.workload import Work
from rlhf_flow.config import compatibility as together
from rlhf_flow.config.schema import RunConfig
from rlhf_flow.engine.vllm.cache import too_small
from rlhf_flow.engine.vllm.spec import VLLM
from rlhf_flow.learner.deepspeed import DeepSpeed


@dataclass(frozen=True)
class Room:
    """What there is: bytes of each GPU, how many of them in all, and bytes of the host of each node."""

    gpu: int
    gpus: int
    host: int


def room(memory: int | None, gpus: int | None) -> Room:
    """As asked, else of this machine. `memory` is of a GPU, or of the host where there is no GPU."""
    import torch

    here = torch.cuda.device_count()
    number = here if gpus is None else gpus
    host = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    if number == 0:
        return Room(0, 0, host if memory is None else memory)
    if memory is None and not here:
        raise ValueError(f"--gpus {number} needs --memory, the memory of each: this machine has none to read it from.")
    return Room(torch.cuda.get_device_properties(0).total_memory if memory is None else memory, number, host)


def misfits(config: RunConfig, shape: Shape, work: Work, memories: list[Memory], host: float, there: Room) -> list[str]:
    """A sentence for each thing that does not fit, with the way out. `host`: bytes that all processes take there."""
    found = []
    share = min(1.0, float(vars(config.cluster).get("gpu_share", 1.0)))
    others = contexts(memories) if together.colocated(config) else 0
    for memory in memories:
        if memory.where != "GPU":
            continue
        has = there.gpu * share - others
        if memory.role == "engine" and isinstance(config.engine, VLLM):
            has = min(has, there.gpu * config.engine.gpu_memory_utilization)
        needs = memory.bytes + CUDA_CONTEXT
        if needs > has:
            found.append(
                f"{memory.role} needs {told(needs)} of a GPU ({memory.peak.name}), and has {told(has)}. "
                f"{_way_out(config, shape, work, memory, has - CUDA_CONTEXT)}"
            )
    if not there.gpus and isinstance(config.engine, VLLM):
        found += _cache(config, config.engine, shape, work)
    hosts = nodes(config)
    if host > hosts * there.host:
        which = "the host, which has" if hosts == 1 else f"{hosts} hosts, which have"
        found.append(
            f"all processes together need {told(host)} of {which} {told(hosts * there.host)}. "
            f"{_of_the_host(config, shape, work, memories, hosts * there.host - host)}"
        )
    return found


def _cache(config: RunConfig, engine: VLLM, shape: Shape, work: Work) -> Iterator[str]:
    """vLLM does not open where its cache has no room for one sequence as long as it may be."""
    longest = engine.max_model_len or work.positions
    token = (2 if config.sampler.needs_mixture else 1) * cache_of_a_token(config, shape)
    yield from too_small(engine.kv_cache_mib, token=token, longest=longest)


def _way_out(config: RunConfig, shape: Shape, work: Work, memory: Memory, has: float) -> str:
    if memory.role == "engine":
        if config.model.dtype == "float32":
            return "Try model.dtype=bfloat16, which halves weights and cache."
        return "Try engine.tensor_parallel=2." if isinstance(config.engine, VLLM) else "Try a smaller engine.batch."
    if memory.role != "learner rank":
        return f"Try {memory.role}.dtype=bfloat16, or a smaller {memory.role}.batch_tokens."
    for words, changed in changes(config, on_gpu=True):
        peak = learner_memory(changed, shape, work, on_gpu=True).bytes
        if peak <= has:
            return f"Try {words}: {told(peak + CUDA_CONTEXT)}."
    return "Try learner=deepspeed with more ranks or with offload in learner.config, or a smaller model."


def _of_the_host(config: RunConfig, shape: Shape, work: Work, memories: list[Memory], short: float) -> str:
    """`short`: the bytes that lack, negative."""
    learner = [memory for memory in memories if memory.role == "learner rank" and memory.where == "host"]
    if not learner or any(memory.where == "GPU" for memory in memories):
        return "Try a machine with more memory, or fewer cluster.engines and cluster.scorers."
    now = learner[0].bytes * learner[0].processes
    for words, changed in changes(config, on_gpu=False):
        one = learner_memory(changed, shape, work, on_gpu=False)
        if now - one.bytes * one.processes >= -short:
            return f"Try {words}."
    return "Try a smaller model, or a machine with more memory."


def changes(config: RunConfig, *, on_gpu: bool) -> Iterator[tuple[str, RunConfig]]:
    """Ways to a smaller learner that leave its result alone, each on top of those before it; more ranks last."""
    words: list[str] = []
    learner = config.learner

    def with_training(**keys: object) -> tuple[str, RunConfig]:
        nonlocal learner
        learner = replace(learner, training=replace(learner.training, **keys))
        words.extend(f"learner.training.{key}={str(value).lower()}" for key, value in keys.items())
        return " ".join(words), replace(config, learner=learner)

    if not learner.training.gradient_checkpointing:
        yield with_training(gradient_checkpointing=True)
    if learner.training.micro_batch > 1:
        yield with_training(micro_batch=1)
    if learner.training.chunk > 256:
        yield with_training(chunk=256)
    if not isinstance(learner, DeepSpeed) or not on_gpu:
        return
    if learner.zero_stage < 3:
        learner = replace(learner, zero_stage=3)
        words.append("learner.zero_stage=3")
        yield " ".join(words), replace(config, learner=learner)
    for ranks in (2 * learner.ranks, 4 * learner.ranks, 8 * learner.ranks, 16 * learner.ranks):
        more = replace(learner, ranks=ranks)
        yield " ".join([*words, f"learner.ranks={ranks}"]), replace(config, learner=more)
