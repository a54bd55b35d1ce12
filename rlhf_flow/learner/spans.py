"""Where the prompts and answers of a line of groups are."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from rlhf_flow.learner.batching import Group


@dataclass(frozen=True)
class Span:
    """The places of a prompt and of its answers."""

    prompt: np.ndarray
    answers: list[np.ndarray]


def place(groups: Sequence[Group]) -> tuple[list[Span], np.ndarray]:
    """The places of each group, and the position of each place in its conversation."""
    spans, positions, end = [], [], 0

    def take(length: int, position: int) -> np.ndarray:
        nonlocal end
        positions.append(np.arange(position, position + length))
        end += length
        return np.arange(end - length, end)

    for group in groups:
        prompt = take(group.prompt, 0)
        spans.append(Span(prompt, [take(length, group.prompt) for length in group.answers]))
    return spans, np.concatenate(positions)
