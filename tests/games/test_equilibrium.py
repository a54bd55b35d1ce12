"""The solver and the gap, against values from the literature and against best responses found by search."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from rlhf_flow.verify import Game, gap, kl, nash, tilted
from rlhf_flow.verify.games import CYCLE, ROCK_PAPER_SCISSORS, random_game


@pytest.mark.parametrize(
    ("tau", "expected"),
    [(0.05, (0.45907, 0.12865, 0.41228)), (0.1, (0.59139, 0.09286, 0.31575)), (0.5, (0.6871, 0.1919, 0.1209))],
)
def test_the_equilibria_of_the_cycle(tau: float, expected: tuple[float, ...]) -> None:
    assert nash(CYCLE, tau) == pytest.approx(expected, abs=1e-4)


def test_gaps_of_references() -> None:
    assert gap(CYCLE, CYCLE.reference, 0.1) == pytest.approx(0.1179, abs=1e-4)
    assert gap(ROCK_PAPER_SCISSORS, np.full(3, 1 / 3), 0.0) == pytest.approx(0.0, abs=1e-12)


@given(seed=st.integers(0, 1000), size=st.integers(2, 6), tau=st.sampled_from([0.1, 0.3, 1.0]))
def test_the_equilibrium_has_no_gap_and_is_its_own_best_answer(seed: int, size: int, tau: float) -> None:
    game = random_game(size, seed)
    policy = nash(game, tau)
    assert gap(game, policy, tau) == pytest.approx(0.0, abs=1e-12)
    assert tilted(game.reference, game.wins @ policy / tau) == pytest.approx(policy, abs=1e-10)


@pytest.mark.slow
@given(seed=st.integers(0, 1000), tau=st.sampled_from([0.05, 0.2, 1.0]))
def test_the_gap_is_what_the_best_opponents_gain(seed: int, tau: float) -> None:
    """max J(pi1, pi) - min J(pi, pi2) over a thousand policies comes near the closed form, and never above it."""
    game, random = random_game(3, seed), np.random.default_rng(seed)
    policy = random.dirichlet(np.ones(3))

    def value(one: np.ndarray, other: np.ndarray) -> float:
        return float(one @ game.wins @ other - tau * kl(one, game.reference) + tau * kl(other, game.reference))

    others = random.dirichlet(np.ones(3), size=1000)
    found = max(value(one, policy) for one in others) - min(value(policy, one) for one in others)
    assert found <= gap(game, policy, tau) + 1e-12
    assert found == pytest.approx(gap(game, policy, tau), abs=0.05)


@pytest.mark.parametrize(
    ("wins", "reference", "answers", "told"),
    [
        ([[0.5, 0.7], [0.4, 0.5]], [0.5, 0.5], (), "wins . wins.T = 1"),
        ([[0.5, 0.7], [0.3, 0.5]], [0.5, 0.6], (), "of sum 1"),
        ([[0.5, 0.7], [0.3, 0.5]], [1.0, 0.0], (), "positive"),
        ([[0.5, 0.7], [0.3, 0.5]], [0.5, 0.5], ((0,), (0, 1)), "begin one another"),
        ([[0.5, 0.7], [0.3, 0.5]], [0.5, 0.5], ((0,), (0,)), "different"),
    ],
)
def test_what_is_no_game_is_refused(wins: list, reference: list, answers: tuple, told: str) -> None:
    with pytest.raises(ValueError, match=told):
        Game(np.array(wins), np.array(reference), answers=answers)
