"""Planted cycles, planted numbers, and a coin; against brute force where there is one."""

from __future__ import annotations

import math
from itertools import combinations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rlhf_flow.metrics.intransitivity import advice, hodge, measure, triads

NASH, REWARDS, RANDOM, FEW = (
    "Use a Nash method",
    "a Nash method is not needed",
    "cannot be told from that of random verdicts",
    "Not enough verdicts",
)


def table(p: np.ndarray, *, seed: int | None = None) -> np.ndarray:
    """wins [B, N, N] of probabilities: these themselves, or with a seed one verdict drawn from each."""
    upper = np.triu_indices(p.shape[1], 1)
    said = p if seed is None else np.random.default_rng(seed).binomial(1, p).astype(np.float64)
    wins = np.full(p.shape, 0.5)
    for i, j in zip(*upper, strict=True):
        wins[:, i, j], wins[:, j, i] = said[:, i, j], 1 - said[:, i, j]
    return wins


def by_numbers(b: int, n: int, *, spread: float, seed: int = 0) -> np.ndarray:
    """Bradley-Terry."""
    worth = np.random.default_rng(seed).normal(size=(b, n)) * spread
    return 1 / (1 + np.exp(worth[:, None, :] - worth[:, :, None]))


def rock_paper_scissors(b: int, n: int, *, p: float, seed: int = 0) -> np.ndarray:
    """Answers of three kinds, each of which beats another one with probability p."""
    kind = np.random.default_rng(seed).integers(3, size=(b, n))
    ahead = (kind[:, :, None] - kind[:, None, :]) % 3
    return np.choose(ahead, [0.5, p, 1 - p])


def of(wins: np.ndarray) -> dict[str, float]:
    return {key.removeprefix("intransitivity/"): value for key, value in measure(wins).items()}


@st.composite
def tables(draw: st.DrawFn, verdicts: st.SearchStrategy[float]) -> np.ndarray:
    b, n = draw(st.integers(1, 3)), draw(st.integers(1, 6))
    wins = np.full((b, n, n), 0.5)
    for at in range(b):
        for i, j in combinations(range(n), 2):
            wins[at, i, j] = draw(verdicts)
            wins[at, j, i] = 1 - wins[at, i, j]
    return wins


ANY = st.sampled_from([0.0, 0.2, 0.5, 0.7, 1.0, math.nan])

# -- cyclic triads ----------------------------------------------------------------------------------------------------


@given(tables(ANY))
def test_triads_are_those_counted_one_by_one(wins: np.ndarray) -> None:
    decided, cyclic = triads(wins)
    for b, one in enumerate(wins):
        rounds = [(one[i, j], one[j, k], one[k, i]) for i, j, k in combinations(range(len(one)), 3)]
        clear = [three for three in rounds if all(p != 0.5 and not math.isnan(p) for p in three)]
        assert decided[b] == len(clear)
        assert cyclic[b] == sum(len({p > 0.5 for p in three}) == 1 for three in clear)


def test_a_cycle_is_all_cycle_and_an_order_none() -> None:
    cycle = table(np.array([[[0.5, 0.9, 0.1], [0.1, 0.5, 0.9], [0.9, 0.1, 0.5]]]))
    assert of(cycle) == {"triads": 1, "cyclic_triads": 1, "hodge_residual": pytest.approx(1)}
    found = of(by_numbers(5, 4, spread=1))
    assert found["cyclic_triads"] == found["cyclic_triads_low"] == 0 < found["cyclic_triads_high"]
    assert found["triads"] == 5 * 4


def test_a_coin_goes_round_in_a_quarter_and_the_interval_says_so() -> None:
    held = 0
    for seed in range(10):
        found = of(table(np.full((200, 3, 3), 0.5), seed=seed))
        held += found["cyclic_triads_low"] <= 0.25 <= found["cyclic_triads_high"]
        assert found["cyclic_triads_low"] < found["cyclic_triads"] < found["cyclic_triads_high"]
    assert held >= 8


# -- what no potential explains ---------------------------------------------------------------------------------------


@given(tables(ANY))
def test_the_potential_is_the_least_squares_fit(wins: np.ndarray) -> None:
    rest, total = hodge(wins)
    for b, one in enumerate(wins):
        pairs = [(i, j) for i, j in combinations(range(len(one)), 2) if not math.isnan(one[i, j])]
        p = np.array([min(max(one[i, j], 0.01), 0.99) for i, j in pairs])
        odds = np.log(p / (1 - p))
        differences = np.array([[(k == i) - (k == j) for k in range(len(one))] for i, j in pairs], dtype=np.float64)
        if not pairs or np.linalg.matrix_rank(differences) == len(pairs):
            assert rest[b] == total[b] == 0, "a tree is explained, whatever was said"
            continue
        fit = differences @ np.linalg.lstsq(differences, odds, rcond=None)[0]
        assert rest[b] == pytest.approx(((odds - fit) ** 2).sum(), abs=1e-8)
        assert total[b] == pytest.approx((odds**2).sum())


@pytest.mark.parametrize("n", [3, 4, 8])
def test_it_is_what_the_formulas_say(n: int) -> None:
    def residual(wins: np.ndarray) -> float:
        rest, total = hodge(wins)
        return float(rest.sum() / total.sum())

    assert residual(by_numbers(20, n, spread=0.5)) == pytest.approx(0, abs=1e-12)
    certain = np.where(np.eye(n), 0.5, by_numbers(20, n, spread=1) > 0.5)
    assert residual(certain) == pytest.approx((n - 2) / (3 * n))
    coin = table(np.full((2000 // n, n, n), 0.5), seed=1)
    assert residual(coin) == pytest.approx(1 - 2 / n, abs=0.03)


# -- the advice -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("seed", range(10))
def test_a_bradley_terry_scorer_calls_for_rewards(seed: int) -> None:
    p = by_numbers(15, 7, spread=2, seed=seed)
    assert REWARDS in advice(measure(table(p)))
    assert NASH not in advice(measure(table(p, seed=seed))), "whatever the noise"


def test_an_intransitive_scorer_calls_for_a_nash_method() -> None:
    assert NASH in advice(measure(table(rock_paper_scissors(30, 8, p=0.95))))
    cycle = np.array([[0.5, 0.9, 0.1], [0.1, 0.5, 0.9], [0.9, 0.1, 0.5]])
    assert NASH in advice(measure(table(np.repeat(cycle[None], 20, 0), seed=0)))


def test_random_verdicts_are_called_random() -> None:
    assert RANDOM in advice(measure(table(np.full((20, 8, 8), 0.5), seed=1)))


def test_of_one_prompt_nothing_is_claimed() -> None:
    one = table(rock_paper_scissors(1, 8, p=0.9))
    assert "cyclic_triads" in of(one) and "cyclic_triads_low" not in of(one)
    assert FEW in advice(measure(one))


@pytest.mark.parametrize("shape", [(0, 4, 4), (3, 1, 1), (3, 2, 2)])
def test_where_there_is_nothing_to_measure_nothing_is(shape: tuple[int, ...]) -> None:
    assert measure(np.full(shape, 0.5)) == {}
    assert FEW in advice({})


def test_a_judge_that_never_decides_has_no_triads_and_one_that_never_speaks_has_nothing() -> None:
    assert measure(np.full((4, 5, 5), 0.5)) == {}
    assert measure(np.where(np.eye(5), 0.5, np.full((4, 5, 5), np.nan))) == {}


# -- of all of it -----------------------------------------------------------------------------------------------------


@settings(deadline=None, max_examples=25)
@given(tables(st.floats(0.05, 0.95)), st.randoms(use_true_random=False))
def test_the_names_of_the_answers_change_nothing(wins: np.ndarray, random: object) -> None:
    generator = np.random.default_rng(random.getrandbits(32))
    orders = [generator.permutation(wins.shape[1]) for _ in wins]
    renamed = np.stack([one[np.ix_(order, order)] for one, order in zip(wins, orders, strict=True)])
    exact = ("triads", "cyclic_triads", "cyclic_triads_low", "cyclic_triads_high")
    before, after = of(wins), of(renamed)
    assert before.keys() == after.keys()
    assert {key: before.get(key) for key in exact} == {key: after.get(key) for key in exact}
    for key in before.keys() & {"hodge_residual"}:
        assert after[key] == pytest.approx(before[key], abs=1e-6)


def test_abstentions_are_left_out() -> None:
    p = by_numbers(15, 8, spread=1)
    wins = table(p)
    silent = np.random.default_rng(0).random(p.shape) < 0.2
    silent = (silent | silent.swapaxes(1, 2)) & ~np.eye(8, dtype=bool)
    found = of(np.where(silent, np.nan, wins))
    assert 0 < found["triads"] < of(wins)["triads"]
    assert found["hodge_residual"] < 1e-3
