"""What colocated roles leave behind while another one has their GPU: its tensors go to the host, a context stays."""

from __future__ import annotations

from collections.abc import Iterator

from rlhf_flow.plan.memory import CUDA_CONTEXT, Memory, Phase

STEPS_ASIDE = ("weights", "master weights", "moments", "gradients")  # what a process holds from call to call


def aside(memories: list[Memory]) -> Iterator[Memory]:
    """Of each process that works on a GPU, what the host keeps of it: at most, for one of the roles is at work."""
    for memory in memories:
        if memory.where == "GPU":
            held = {
                name: max(phase.items.get(name, 0.0) for phase in memory.phases)
                for name in STEPS_ASIDE
                if any(name in phase.items for phase in memory.phases)
            }
            yield Memory(memory.role, "host", memory.processes, (Phase("aside", held),))


def contexts(memories: list[Memory]) -> int:
    """Bytes of a GPU that all roles but the one at work keep."""
    return CUDA_CONTEXT * max(0, sum(memory.where == "GPU" for memory in memories) - 1)
