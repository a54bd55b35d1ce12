"""Answers scored in pieces, and what was said of the pieces joined again."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from rlhf_flow.scorer.chunking import cut, in_pieces
from rlhf_flow.types import Message, Prompt, Rollouts, Scored


def asked(b: int) -> Rollouts:
    prompts = tuple(Prompt(str(i), (Message("user", str(i)),), (i,)) for i in range(b))
    return Rollouts(round=1, prompts=prompts, responses=tuple(() for _ in prompts))


def scores(rollouts: Rollouts) -> Scored:
    """A judge of two answers each, who sees nothing but the number of the prompt."""
    ids = np.array([int(prompt.id) for prompt in rollouts.prompts], dtype=np.float64)
    odd = np.broadcast_to((ids % 2 == 1)[:, None, None], (len(ids), 2, 2))
    return Scored(
        rollouts,
        utility=np.stack([ids, -ids], axis=1),
        wins=np.full((len(ids), 2, 2), 0.5),
        aspects={"id": np.stack([ids, ids], axis=1).astype(np.float32)},
        pair_flags={"odd": odd} if odd.any() else {},
        counts={"judge/queries": len(ids)},
    )


@given(b=st.integers(0, 12), size=st.integers(1, 5) | st.none())
def test_pieces_say_what_the_whole_says(b: int, size: int | None) -> None:
    rollouts = asked(b)
    whole, joined = scores(rollouts), in_pieces(lambda pieces: [scores(piece) for piece in pieces], rollouts, size)
    assert [prompt for piece in cut(rollouts, size) for prompt in piece.prompts] == [*rollouts.prompts]
    np.testing.assert_array_equal(joined.utility, whole.utility)
    np.testing.assert_array_equal(joined.aspects["id"], whole.aspects["id"])
    assert joined.counts == whole.counts and joined.pair_flags.keys() == whole.pair_flags.keys()
    for name, mark in whole.pair_flags.items():
        np.testing.assert_array_equal(joined.pair_flags[name], mark)


def test_a_judge_that_measures_all_answers_together_gets_them_together() -> None:
    sizes: list[int] = []

    def ask(pieces: Sequence[Rollouts]) -> list[Scored]:
        sizes.extend(len(piece.prompts) for piece in pieces)
        return [replace(scores(piece), batch_metrics={"seen": float(len(piece.prompts))}) for piece in pieces]

    assert in_pieces(ask, asked(5), 2).batch_metrics == {"seen": 5.0}
    assert sizes == [2, 2, 1, 5]


def test_pieces_with_other_aspects_are_refused() -> None:
    def ask(pieces: Sequence[Rollouts]) -> list[Scored]:
        first, *others = [scores(piece) for piece in pieces]
        return [first, *(replace(other, aspects={}) for other in others)]

    with pytest.raises(ValueError, match="the same aspects for every response"):
        in_pieces(ask, asked(4), 2)
