"""What does not fit, and a change that would make it fit, found by estimating the changed configuration."""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import TypeAlias

from rlhf_flow.capacity.cluster_needs import gpus
from rlhf_flow.capacity.learner_memory import learner_memory
from rlhf_flow.capacity.model_shape import Shape
from rlhf_flow.capacity.process_memory import CUDA_CONTEXT, Memory, size_text
from rlhf_flow.capacity.worker_memory import cache_of_a_token, idle_contexts
from rlhf_flow.capacity.workload import Work
from rlhf_flow.config.compatibility import colocated
from rlhf_flow.config.schema import RunConfig
from rlhf_flow.engine.vllm.cache import too_small
from rlhf_flow.engine.vllm.spec import VLLM
from rlhf_flow.learner.deepspeed import DeepSpeed
from rlhf_flow.system.errors import ConfigError

Remedy: TypeAlias = tuple[str, tuple[str, ...]]  # words, and overrides that carry them out, if there are any
ADAPTER = 16  # rank of the LoRA adapter that is offered if all weights do not fit


@dataclass(frozen=True)
class Room:
    """The memory available, in bytes."""

    gpu: int  # of each GPU
    gpus: int  # number of GPUs on all nodes
    host: int  # of each node


def room(memory: int | None, gpus: int | None, *, nodes: int = 1) -> Room:
    """Nodes like this machine, unless given. `memory`: bytes of each GPU, or of the host if there is no GPU."""
    import torch

    here = torch.cuda.device_count()
    number = nodes * here if gpus is None else gpus
    host = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    if number == 0:
        return Room(0, 0, host if memory is None else memory)
    if memory is None and not here:
        raise ConfigError(f"--gpus={number}: this machine has no GPU to read the memory from", "--memory 80GiB")
    return Room(torch.cuda.get_device_properties(0).total_memory if memory is None else memory, number, host)


def misfits(
    config: RunConfig, shape: Shape, work: Work, memories: list[Memory], host: float, room: Room
) -> list[ValueError]:
    """One error for each device that is too small. `host`: bytes of all processes on their hosts."""
    found: list[ValueError] = []
    if room.gpus and gpus(config) > room.gpus:
        found.append(
            ConfigError(
                f"all roles together need {gpus(config):g} GPUs, and {room.gpus} are available",
                "fewer learner.ranks, cluster.engines or cluster.scorers, cluster=colocated, or more GPUs (--gpus)",
            )
        )
    share = min(1.0, config.cluster.gpu_share)
    others = idle_contexts(memories) if colocated(config) else 0
    for memory in memories:
        if memory.where != "GPU":
            continue
        available = room.gpu * share - others
        if memory.role == "engine" and isinstance(config.engine, VLLM):
            available = min(available, room.gpu * config.engine.gpu_memory_utilization)
        needed = memory.bytes + CUDA_CONTEXT
        if needed > available:
            found.append(
                ConfigError(
                    f"{memory.role} needs {size_text(needed)} of a GPU ({memory.peak.name}), and "
                    f"{size_text(available)} are available",
                    *_gpu_remedy(config, shape, work, memory, available - CUDA_CONTEXT),
                )
            )
    if not room.gpus and isinstance(config.engine, VLLM):
        longest = config.engine.max_model_len or work.positions
        token = (2 if config.sampler.needs_mixture else 1) * cache_of_a_token(config, shape)
        found += too_small(config.engine.kv_cache_mib, token=token, longest=longest)
    nodes = config.cluster.nodes
    if host > nodes * room.host:
        which = "the host, which has" if nodes == 1 else f"{nodes} hosts, which have"
        found.append(
            ConfigError(
                f"all processes together need {size_text(host)} of {which} {size_text(nodes * room.host)}",
                *_host_remedy(config, shape, work, memories, host - nodes * room.host),
            )
        )
    return found


def _gpu_remedy(config: RunConfig, shape: Shape, work: Work, memory: Memory, available: float) -> Remedy:
    if memory.role == "engine":
        if config.model.dtype == "float32":
            return "model.dtype=bfloat16, which halves weights and cache", ("model.dtype=bfloat16",)
        if isinstance(config.engine, VLLM):
            more = f"engine.tensor_parallel={2 * config.engine.tensor_parallel}"
            return more, (more,)
        return "a smaller engine.batch", ()
    if memory.role != "learner rank":
        return f"{memory.role}.dtype=bfloat16, or a smaller {memory.role}.batch_tokens", ()
    for words, changed in [*changes(config, on_gpu=True), *_adapters(config)]:
        peak = learner_memory(changed, shape, work, on_gpu=True).bytes
        if peak <= available:
            return f"{words}, which needs {size_text(peak + CUDA_CONTEXT)}", tuple(words.split())
    return "learner=deepspeed with more ranks or with offload in learner.config, or a smaller model", ()


def _adapters(config: RunConfig) -> Iterator[tuple[str, RunConfig]]:
    """LoRA instead of all weights, which changes the result, and then the changes that keep it."""
    lora = vars(config.learner).get("lora")
    if lora is None or lora.rank or config.learner.head.outputs:
        return
    adapted = replace(config, learner=replace(config.learner, lora=replace(lora, rank=ADAPTER)))
    yield f"learner.lora.rank={ADAPTER}", adapted
    for words, changed in changes(adapted, on_gpu=True):
        yield f"learner.lora.rank={ADAPTER} {words}", changed


def _host_remedy(config: RunConfig, shape: Shape, work: Work, memories: list[Memory], missing: float) -> Remedy:
    """`missing` in bytes."""
    learner = [memory for memory in memories if memory.role == "learner rank" and memory.where == "host"]
    if not learner or any(memory.where == "GPU" for memory in memories):
        return "a machine with more memory, or fewer cluster.engines and cluster.scorers", ()
    now = learner[0].bytes * learner[0].processes
    for words, changed in changes(config, on_gpu=False):
        memory = learner_memory(changed, shape, work, on_gpu=False)
        if now - memory.bytes * memory.processes >= missing:
            return words, tuple(words.split())
    return "a smaller model, or a machine with more memory", ()


def changes(config: RunConfig, *, on_gpu: bool) -> Iterator[tuple[str, RunConfig]]:
    """Changes that make the learner smaller and keep its result, each added to those before; more ranks last."""
    words: list[str] = []
    learner = config.learner

    def with_training(**keys: object) -> tuple[str, RunConfig]:
        nonlocal learner
        learner = replace(learner, training=replace(learner.training, **keys))
        words.extend(f"learner.training.{key}={str(value).lower()}" for key, value in keys.items())
        return " ".join(words), replace(config, learner=learner)

    if learner.training.gradient_checkpointing != "full":
        yield with_training(gradient_checkpointing="full")
    if learner.training.micro_batch != 1:
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
