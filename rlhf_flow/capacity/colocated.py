"""What colocated roles leave behind while another one has their GPU: its tensors go to the host, a context stays.

Where the learner shares its memory with the engine, both have their weights there while new ones are handed over.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

from rlhf_flow.capacity.process_memory import CUDA_CONTEXT, Memory, Phase

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


def handing_over(learner: Memory, engine: Memory, bucket: int) -> Memory:
    """The learner's memory, with what of the engine is beside it then, and a bucket for either and between them."""
    (held,) = (phase.items for phase in learner.phases if phase.name == "save")
    arriving = {"engine's weights": engine.phases[0].items["weights"], "buckets on their way": 3.0 * bucket}
    return replace(learner, phases=(*learner.phases, Phase("hand over", {**held, **arriving})))


def contexts(memories: list[Memory]) -> int:
    """Bytes of a GPU that all roles but the one at work keep."""
    return CUDA_CONTEXT * max(0, sum(memory.where == "GPU" for memory in memories) - 1)
