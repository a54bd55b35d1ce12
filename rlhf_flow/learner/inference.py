"""Forward passes without gradients; the ranks share the rows."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TypeAlias

import numpy as np
import torch
from torch import Tensor

from rlhf_flow.learner.backend import Backend
from rlhf_flow.learner.batching import Limits, Packed, Row, deal, pack
from rlhf_flow.learner.policy_model import reading_rectangles
from rlhf_flow.learner.readout import Readout

Forward: TypeAlias = Callable[[Packed], Tensor]
# The most that log-probs in a line may differ from those in padded rows, nats a token on average.
DIFFERENCES = {"float32": 1e-3, "bfloat16": 0.1}


@torch.no_grad()
def read_all(
    backend: Backend, reading: Readout, rows: Sequence[Row], forward: Forward, *, limits: Limits, numbers: int
) -> list[np.ndarray]:
    """The outputs of `forward` of each row, float32 [W, numbers], on every rank."""
    if not rows:
        return []
    widths = [reading.width(row) for row in rows]
    ends = np.cumsum(widths)
    flat = torch.zeros(int(ends[-1]), numbers)
    for wave in deal([(row,) for row in rows], limits, ranks=backend.replicas):
        mine = wave[backend.replica]
        stand_in = wave[0][-1:]  # a rank without rows must still take part in collectives
        packed = reading.pack([rows[i] for i in (mine if len(mine) else stand_in)])
        outputs = forward(packed).cpu().view(-1, numbers)
        start = 0
        for i in mine:
            flat[ends[i] - widths[i] : ends[i]] = outputs[start : start + widths[i]]
            start += widths[i]
    return np.split(backend.sum(flat).numpy(), ends[:-1])


@torch.no_grad()
def compare_lines(backend: Backend, reading: Readout, rows: Sequence[Row], precision: str | None) -> None:
    """Raise ValueError if these rows have other log-probs in a line without padding than in a rectangle.

    On the learner's device and in its precision. Collective.
    """
    line = backend.logps(reading.pack(rows))
    with reading_rectangles(backend.lm):
        padded = backend.logps(pack(rows))
    difference = (line - padded).abs().mean().item()
    if not difference <= DIFFERENCES[precision or "float32"]:
        name = type(backend.lm).__name__
        raise ValueError(
            f"model.path: log-probs of {name} differ by {difference:.2g} nats a token between rows that share their "
            "prompt and padded rows, on this device. Fix: another learner.training.precision, or another model."
        )
