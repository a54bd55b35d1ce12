"""Forward passes without gradients; the ranks share the rows."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TypeAlias

import numpy as np
import torch
from torch import Tensor

from rlhf_flow.learner.backend import Backend
from rlhf_flow.learner.batching import Limits, Packed, Row, deal
from rlhf_flow.learner.readout import Readout

Forward: TypeAlias = Callable[[Packed], Tensor]


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
