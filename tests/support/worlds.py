"""Scored responses, by hand and by hypothesis."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
from hypothesis import strategies as st

from rlhf_flow.types import Message, Prompt, Response, Rollouts, SamplingParams, Scored, Selection

MARKS = ("inconsistent", "overdue", "capped", "unasked", "of no name")


def response(
    k: int,
    *,
    b: int = 0,
    tokens: Sequence[int] | None = None,
    truncated: bool = False,
    seed: int = 0,
    draw: str = "policy",
    source: str = "policy",
    text: str = "",
    mass: float = 1.0,
) -> Response:
    return Response(
        id=f"1/{draw}/{k}/q{b}",
        tokens=np.array([10 + k] if tokens is None else tokens, dtype=np.int32),
        text=text,
        logps=None,
        truncated=truncated,
        draw=SamplingParams(draw),
        seed=seed + k,
        policy="0" * 64,
        source=source,
        mass=mass,
    )


def scored(responses: Sequence[Sequence[Response]], utility: np.ndarray, wins: np.ndarray | None = None) -> Scored:
    """By comparison of the utilities, where no wins are given."""
    prompts = tuple(Prompt(f"q{b}", (Message("user", "?"),), tokens=(b,)) for b in range(len(responses)))
    rollouts = Rollouts(1, prompts, tuple(map(tuple, responses)))
    utility = np.asarray(utility, dtype=np.float32)
    if wins is None:
        wins = (np.sign(utility[:, :, None] - utility[:, None, :]) + 1) / 2
    return Scored(rollouts, utility, np.asarray(wins, dtype=np.float32))


def one(utility: Sequence[float], wins: Sequence[Sequence[float]] | None = None, **more: object) -> Scored:
    """One prompt with different responses."""
    responses = [response(k, **more) for k in range(len(utility))]
    return scored([responses], np.array([utility]), None if wins is None else np.array([wins]))


def sides(selection: Selection) -> list[tuple[int, int, float]]:
    """The pairs, by the numbers k of their sides, with the preference."""
    return [
        (int(pair.first.split("/")[2]), int(pair.second.split("/")[2]), pair.preference) for pair in selection.pairs
    ]


@st.composite
def worlds(draw: st.DrawFn, n: st.SearchStrategy[int]) -> Scored:
    """Few tokens and few values, so that ties, equal responses, abstentions and truncations are common.

    The first response is of the draw `policy`, the second of `reference`, others of either; some have masses.
    """
    size, count = draw(st.integers(0, 3)), draw(n)
    names = ["policy", "reference", *(draw(st.sampled_from(["policy", "reference"])) for _ in range(count - 2))]
    masses = draw(st.sampled_from([[1.0], [0.1, 0.25, 0.5]]))
    responses = [
        [
            response(
                k,
                b=b,
                tokens=draw(st.lists(st.integers(0, 1), max_size=2)),
                truncated=draw(st.booleans()),
                draw=names[k],
                mass=draw(st.sampled_from(masses)),
            )
            for k in range(count)
        ]
        for b in range(size)
    ]
    upper = st.sampled_from([0.0, 0.2, 0.5, 0.9, 1.0, float("nan")])
    wins = np.full((size, count, count), 0.5, dtype=np.float32)
    for b in range(size):
        for i in range(count):
            for j in range(i):
                wins[b, i, j] = draw(upper)
                wins[b, j, i] = 1 - wins[b, i, j]
    world = scored(responses, wins.mean(-1) if count else np.zeros((size, 0)), wins)
    return replace(world, pair_flags={name: draw(marked(wins)) for name in draw(st.sets(st.sampled_from(MARKS)))})


@st.composite
def marked(draw: st.DrawFn, wins: np.ndarray) -> np.ndarray:
    """bool [B, N, N], symmetric: of some pairs without a verdict, and perhaps of some that have one."""
    marks = np.zeros(wins.shape, dtype=bool)
    for at in np.argwhere(np.isnan(wins) | draw(st.booleans())):
        marks[tuple(at)] = at[1] < at[2] and draw(st.booleans())
    return marks | marks.swapaxes(1, 2)
