"""Split rollouts into chunks of prompts, score each chunk, and concatenate the scores."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import replace
from itertools import pairwise

import numpy as np

from rlhf_flow.types import Rollouts, Scored


def in_pieces(ask: Callable[[Sequence[Rollouts]], list[Scored]], rollouts: Rollouts, size: int | None) -> Scored:
    """The scores of all rollouts, requested in chunks of `size` prompts (None: one chunk).

    A scorer with batch metrics, which are of all answers together, is asked again with one chunk. Raises ValueError if
    chunks have different aspects.
    """
    scored = ask(cut(rollouts, size))
    if len(scored) > 1 and any(chunk.batch_metrics for chunk in scored):
        scored = ask([rollouts])
    return joined(rollouts, scored)


def cut(rollouts: Rollouts, size: int | None) -> list[Rollouts]:
    """Chunks of `size` prompts; without prompts one empty chunk, so that the scorer reports its counts."""
    b = len(rollouts.prompts)
    bounds = [*range(0, b, size or b), b] if b else [0, 0]
    return [
        replace(rollouts, prompts=rollouts.prompts[start:end], responses=rollouts.responses[start:end])
        for start, end in pairwise(bounds)
    ]


def joined(rollouts: Rollouts, chunks: Sequence[Scored]) -> Scored:
    """The scores of all chunks, in order; counts add up, and a missing flag is False.

    Raises ValueError if chunks have different aspects.
    """
    names = list(chunks[0].aspects)
    if any(chunk.aspects.keys() != set(names) for chunk in chunks):
        raise ValueError(
            "the scorer must name the same aspects for every response; of some prompts it named "
            f"{', '.join(names) or 'none'}, and of others it did not"
        )
    counts: Counter[str] = Counter()
    for chunk in chunks:
        counts.update(chunk.counts)

    def flag(name: str) -> np.ndarray:
        return np.concatenate([one.pair_flags.get(name, np.zeros(one.wins.shape, dtype=bool)) for one in chunks])

    return Scored(
        rollouts,
        utility=np.concatenate([chunk.utility for chunk in chunks]),
        wins=np.concatenate([chunk.wins for chunk in chunks]),
        aspects={name: np.concatenate([chunk.aspects[name] for chunk in chunks]) for name in names},
        pair_flags={name: flag(name) for name in sorted({name for chunk in chunks for name in chunk.pair_flags})},
        counts=dict(counts),
        batch_metrics=chunks[0].batch_metrics,
    )
