"""Answers scored in pieces, and what was said of the pieces joined again."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import replace
from itertools import pairwise

import numpy as np

from rlhf_flow.types import Rollouts, Scored


def in_pieces(ask: Callable[[Sequence[Rollouts]], list[Scored]], rollouts: Rollouts, size: int | None) -> Scored:
    """The scores of all rollouts, asked for in pieces of `size` prompts (None: at once), whoever is asked.

    A judge that measures all answers together is asked about all of them at once. Raises ValueError where pieces have
    different aspects.
    """
    scored = ask(cut(rollouts, size))
    if len(scored) > 1 and any(piece.batch_metrics for piece in scored):
        scored = ask([rollouts])
    return joined(rollouts, scored)


def cut(rollouts: Rollouts, size: int | None) -> list[Rollouts]:
    """Pieces of so many prompts; at least one, so that a judge is asked about nothing, too."""
    b = len(rollouts.prompts)
    bounds = [*range(0, b, size or b), b] if b else [0, 0]
    return [
        replace(rollouts, prompts=rollouts.prompts[start:end], responses=rollouts.responses[start:end])
        for start, end in pairwise(bounds)
    ]


def joined(rollouts: Rollouts, pieces: Sequence[Scored]) -> Scored:
    """The scores of all pieces, in order; counts add up. Raises ValueError where pieces have different aspects."""
    names = list(pieces[0].aspects)
    if any(piece.aspects.keys() != set(names) for piece in pieces):
        raise ValueError(
            "the scorer must name the same aspects for every response; of some prompts it named "
            f"{', '.join(names) or 'none'}, and of others it did not"
        )
    counts: Counter[str] = Counter()
    for piece in pieces:
        counts.update(piece.counts)
    return Scored(
        rollouts,
        utility=np.concatenate([piece.utility for piece in pieces]),
        wins=np.concatenate([piece.wins for piece in pieces]),
        aspects={name: np.concatenate([piece.aspects[name] for piece in pieces]) for name in names},
        pair_flags={
            name: _mark(pieces, name) for name in sorted({name for piece in pieces for name in piece.pair_flags})
        },
        counts=dict(counts),
        batch_metrics=pieces[0].batch_metrics,
    )


def _mark(pieces: Sequence[Scored], name: str) -> np.ndarray:
    """bool [B, N, N]; of a piece in which nothing was marked so, False."""
    return np.concatenate([piece.pair_flags.get(name, np.zeros(piece.wins.shape, dtype=bool)) for piece in pieces])
