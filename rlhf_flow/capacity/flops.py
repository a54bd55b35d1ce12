"""The model FLOPs of optimizer steps, and the peak of the devices that compute them.

Model FLOPs: 2 for each weight of a matrix and token, and 4 Q for each query and key of causal attention; the backward
pass takes twice as many as the forward pass. A prompt is counted once for all its answers, the output layer for
response tokens only, and what is recomputed not at all (Chowdhery et al. 2022, arXiv:2204.02311, appendix B).
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass

from rlhf_flow.capacity.model_shape import Shape
from rlhf_flow.capacity.workload import Work
from rlhf_flow.config.schema import RunConfig
from rlhf_flow.learner.batching import Group

PEAKS = {  # FLOP/s of dense bfloat16 products, from the makers' data sheets
    "B200": 2250e12,
    "H200": 989e12,
    "H100 PCIe": 756e12,
    "H100 NVL": 835e12,
    "H100": 989e12,
    "A100": 312e12,
    "L40S": 362e12,
    "L4": 121e12,
    "A10": 125e12,
    "4090": 165e12,
}
SIZE = 2048  # of the square matrices whose product measures a CPU


@dataclass(frozen=True)
class Rate:
    """Of the optimizer steps that a run took."""

    flops: float  # model FLOP/s
    peak: float | None  # FLOP/s of all ranks' devices; None: unknown

    @property
    def utilisation(self) -> float | None:
        """Model FLOPs utilisation, a share."""
        return None if self.peak is None else self.flops / self.peak


@dataclass(frozen=True)
class Compute:
    """Of an optimizer step, if the batch is full and all prompts and answers have their greatest length."""

    update: float  # model FLOPs
    measured: Rate | None  # of another run, by its own pairs and lengths


def of_update(config: RunConfig, shape: Shape, work: Work) -> float:
    """Model FLOPs of an optimizer step, at most."""
    answers = (max(0, work.longest_answer - 1),) * work.sides
    return of_step(shape, [Group(work.longest_prompt, answers)] * config.learner.training.batch)


def of_step(shape: Shape, groups: Sequence[Group]) -> float:
    """Model FLOPs of an optimizer step. `groups`: the tokens that it feeds; nothing reads an answer's last one."""
    fed = sum(group.prompt + sum(group.answers) for group in groups)
    predicted = sum(answer + 1 for group in groups for answer in group.answers)
    output = shape.vocabulary * shape.width
    products = 2 * (shape.linear - output) * fed + 2 * output * predicted
    scores = sum(  # queries times the keys they see
        group.prompt**2 / 2 + sum(answer * group.prompt + answer**2 / 2 for answer in group.answers) for group in groups
    )
    return 3 * (products + 4 * shape.layers * shape.queries * scores)


def peak_here(ranks: int) -> float | None:
    """FLOP/s of as many devices as there are ranks: of this machine's GPUs, else of its CPU, which ranks share."""
    import torch

    if torch.cuda.is_available():
        name = torch.cuda.get_device_name()
        return next((ranks * peak for part, peak in PEAKS.items() if part in name), None)
    factor, times = torch.ones(SIZE, SIZE), []
    for _ in range(3):
        began = time.perf_counter()
        factor @ factor
        times.append(time.perf_counter() - began)
    return 2 * SIZE**3 / min(times)
