"""The memory that `rlhf-flow plan` predicts for a size, and whether it fits the machine"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from gpu.models import Asked, Size, configured
from rlhf_flow.capacity.learner_memory import host_memory, learner_memory
from rlhf_flow.capacity.model_shape import Shape, shape_of
from rlhf_flow.capacity.process_memory import CUDA_CONTEXT, LIBRARIES, Memory, size_text
from rlhf_flow.config.schema import RunConfig


@dataclass(frozen=True)
class Planned:
    """The prediction of `rlhf-flow plan` for a size, without the phase `save`, which is not measured."""

    name: str
    size: Size
    config: RunConfig
    shape: Shape
    gpu: Memory | None  # None: the learner runs on the CPU
    host: Memory

    def lacks(self, left: tuple[float, float], disk: float) -> list[str]:
        """A message for each kind of memory that is too small; `left`: free bytes of the GPU and of the host."""
        wanted = {
            "the GPU": (self.gpu.bytes + CUDA_CONTEXT if self.gpu else 0.0, left[0]),
            "the host": (self.host.bytes + LIBRARIES["deepspeed"], left[1]),
            "the disk": (2.0 * self.shape.parameters, disk),
        }
        return [
            f"{self.name} takes {size_text(takes)} of {where}, by plan, and there are {size_text(has)} left"
            for where, (takes, has) in wanted.items()
            if takes > has
        ]


def planned(name: str, size: Size, model: Path, asked: Asked, *, on_gpu: bool) -> Planned:
    """The prediction for a size. Writes the configuration of the model, but no weights."""
    size.config(positions=asked.prompt + asked.answer).save_pretrained(model)
    config, shape = configured(model, asked), shape_of(str(model))
    here = learner_memory(config, shape, asked.work, on_gpu=on_gpu)
    there = host_memory(config, shape, asked.work) if on_gpu else here
    gpu, host = (replace(each, phases=tuple(p for p in each.phases if p.name != "save")) for each in (here, there))
    return Planned(name, size, config, shape, gpu if on_gpu else None, host)


def way_out(fitting: Sequence[Planned]) -> str:
    if not fitting:
        return "No size fits here, by plan. Try a smaller --batch, --micro-batch or --answer, or another machine."
    largest = max(fitting, key=lambda each: each.shape.parameters)
    return f"What fits here, by plan: --size {largest.name}."
