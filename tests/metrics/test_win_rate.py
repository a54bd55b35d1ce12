"""The new answers against the start's: known answers, planted judges, and oracles by brute force."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from rlhf_flow.metrics.alarms import Alarms, tripped
from rlhf_flow.metrics.stats import RIDGE, student_quantile_of
from rlhf_flow.metrics.win_rate import gap, length_controlled, length_drift, win_rate

BOTH_WAYS = np.array([-40, -12, -9, -3, -1, 0, 1, 3, 9, 12, 40], dtype=np.float64)
probabilities = st.floats(0, 1, allow_subnormal=False)


def controlled(wins: np.ndarray, longer: np.ndarray) -> float | None:
    return length_controlled("rate", wins, longer).get("rate")


def x_of(longer: np.ndarray) -> np.ndarray:
    """The standardised difference of lengths, by its definition."""
    return np.tanh(longer / np.sqrt(np.mean(longer**2)))


def says(longer: np.ndarray, intercept: float, slope: float) -> np.ndarray:
    return 1 / (1 + np.exp(-(intercept + slope * x_of(longer))))


def by_search(wins: np.ndarray, longer: np.ndarray) -> float:
    """The prediction at zero of the best (a, b) of ever finer grids: the same objective, and no calculus."""
    x, centre, width = x_of(longer), np.zeros(2), 16.0
    for _ in range(40):
        a, b = (axis.ravel() for axis in np.meshgrid(*(at + np.linspace(-width, width, 9) for at in centre)))
        odds = a[:, None] + b[:, None] * x
        likelihood = (wins * odds - np.logaddexp(0, odds)).sum(-1) - RIDGE / 2 * (a**2 + b**2)
        best = int(likelihood.argmax())
        centre, width = np.array([a[best], b[best]]), width * 0.6
    return float(1 / (1 + np.exp(-centre[0])))


# -- length control ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("verdicts", [np.sign(BOTH_WAYS) / 2 + 0.5, says(BOTH_WAYS, 0.0, 1.5)])
def test_a_judge_of_length_alone_has_a_rate_of_a_half(verdicts: np.ndarray) -> None:
    assert controlled(verdicts, BOTH_WAYS) == pytest.approx(0.5)


@pytest.mark.parametrize("slope", [0.5, 2.0, -2.0])
def test_answers_that_became_longer_gain_nothing_by_a_judge_of_length(slope: float) -> None:
    longer = np.random.default_rng(0).normal(15, 12, size=400).round()
    wins = says(longer, 0.0, slope)
    assert abs(wins.mean() - 0.5) > 0.05
    assert controlled(wins, longer) == pytest.approx(0.5, abs=1e-3)


def test_wins_that_were_drawn_by_a_judge_of_length_give_a_half_within_their_noise() -> None:
    random = np.random.default_rng(1)
    longer = random.normal(15, 12, size=2000).round()
    wins = (random.random(2000) < says(longer, 0.0, 2.0)).astype(np.float64)
    assert wins.mean() > 0.65
    assert controlled(wins, longer) == pytest.approx(0.5, abs=0.1)


@pytest.mark.parametrize("rate", [0.1, 0.5, 0.8])
def test_a_judge_that_ignores_length_keeps_its_rate(rate: float) -> None:
    lengths = np.random.default_rng(2).normal(15, 12, size=400).round()
    assert controlled(np.full(400, rate), lengths) == pytest.approx(rate, abs=1e-3)
    # the same share of wins among the longer and the shorter
    wins = np.tile(np.repeat([1.0, 0.0], [round(10 * rate), 10 - round(10 * rate)]), 40)
    longer = np.repeat(np.tile([-7.0, 7.0], 20), 10)
    assert controlled(wins, longer) == pytest.approx(rate, abs=1e-3)


def test_what_is_better_at_equal_length_stays_better() -> None:
    longer = np.random.default_rng(3).normal(15, 12, size=400).round()
    assert controlled(says(longer, 1.0, 2.0), longer) == pytest.approx(1 / (1 + np.exp(-1)), abs=1e-2)


@given(st.lists(st.tuples(probabilities, st.integers(-60, 60)), min_size=2, max_size=12))
def test_the_fit_is_the_best_there_is(pairs: list[tuple[float, int]]) -> None:
    wins, longer = (np.array(column, dtype=np.float64) for column in zip(*pairs, strict=True))
    if not longer.any():
        longer[0] = 1
    found = controlled(wins, longer)
    if longer.min() > 0 or longer.max() < 0:
        assert found is None
    else:
        assert found == pytest.approx(by_search(wins, longer), abs=1e-4)


@given(st.lists(st.tuples(probabilities, st.integers(-60, 60)), min_size=2, max_size=12))
def test_seen_from_the_other_side_the_rates_add_up_to_one(pairs: list[tuple[float, int]]) -> None:
    wins, longer = (np.array(column, dtype=np.float64) for column in zip(*pairs, strict=True))
    one, other = controlled(wins, longer), controlled(1 - wins, -longer)
    assert (one is None) == (other is None)
    if one is not None and other is not None:
        assert one + other == pytest.approx(1)


def test_nothing_is_said_of_equal_length_where_all_are_longer_or_nobody_judged() -> None:
    assert controlled(np.array([1.0, 0.0]), np.array([3.0, 1.0])) is None
    assert controlled(np.array([1.0, 0.0]), np.array([-3.0, -1.0])) is None
    assert controlled(np.array([np.nan, 1.0]), np.array([-3.0, 1.0])) is None
    assert controlled(np.array([]), np.array([])) is None
    assert controlled(np.array([1.0, 0.0, 1.0, 1.0]), np.zeros(4)) == pytest.approx(0.75, abs=5e-3)


# -- intervals --------------------------------------------------------------------------------------------------------


def test_abstentions_are_no_part_of_a_rate() -> None:
    found = win_rate("rate", np.array([1.0, np.nan, 0.5, 0.0, 1.0]))
    assert found == win_rate("rate", np.array([1.0, 0.5, 0.0, 1.0]))
    assert found["rate"] == 0.625
    assert 0 <= found["rate_low"] < 0.625 < found["rate_high"] <= 1
    assert win_rate("rate", np.array([np.nan])) == {}


def test_verdicts_of_0_or_1_have_wilsons_interval() -> None:
    """Of 28 in 32: Wilson 1927, by its closed form."""
    n, p, z = 32, 28 / 32, 1.959963984540054
    centre, half = p + z**2 / (2 * n), z * np.sqrt(p * (1 - p) / n + z**2 / (4 * n**2))
    expected = {"rate": p, "rate_low": (centre - half) / (1 + z**2 / n), "rate_high": (centre + half) / (1 + z**2 / n)}
    assert win_rate("rate", np.repeat([1.0, 0.0], [28, 4])) == pytest.approx(expected)


def test_the_interval_is_about_as_wide_as_theory_says() -> None:
    wins = (np.random.default_rng(0).random(1000) < 0.7).astype(np.float64)
    found = win_rate("rate", wins)
    assert found["rate_high"] - found["rate_low"] == pytest.approx(2 * 1.96 * np.sqrt(0.21 / 1000), rel=0.1)
    soft = 0.7 + 0.1 * np.random.default_rng(0).normal(size=1000)
    found = win_rate("rate", soft)
    assert found["rate_high"] - found["rate_low"] == pytest.approx(2 * 1.96 * 0.1 / np.sqrt(1000), rel=0.1)


@pytest.mark.parametrize("n", [1, 16, 128])
@pytest.mark.parametrize("rate", [0.0, 0.5, 0.97, 1.0])
def test_no_interval_has_width_0(n: int, rate: float) -> None:
    """Not even where all verdicts are alike."""
    found = win_rate("rate", np.full(n, rate))
    assert found["rate_low"] < found["rate_high"]
    assert found["rate_low"] <= found["rate"] <= found["rate_high"]
    same = gap("gap", np.full(n, rate), np.full(n, rate))
    assert same["gap_low"] < 0 < same["gap_high"]
    lengths = np.where(np.arange(n) % 2, 5.0, -5.0) if n > 1 else np.zeros(1)
    equal = length_controlled("rate", np.full(n, rate), lengths)
    assert equal["rate_low"] < equal["rate_high"]


HARD = [(n, p) for n in (16, 32, 128) for p in (0.5, 0.7, 0.9, 0.95)]


@pytest.mark.parametrize(("n", "p"), HARD)
def test_intervals_of_hard_verdicts_cover_the_truth(n: int, p: float) -> None:
    drawn = (np.random.default_rng(n).random((2000, n)) < p).astype(np.float64)
    found = [win_rate("rate", wins) for wins in drawn]
    covered = np.mean([one["rate_low"] <= p <= one["rate_high"] for one in found])
    assert covered >= (0.92 if n == 16 else 0.93)


@pytest.mark.parametrize(("mean", "spread"), [(0.0, 1.0), (3.0, 1.0), (3.0, 3.0), (5.0, 3.0), (1.0, 6.0)])
def test_intervals_of_soft_verdicts_cover_the_truth(mean: float, spread: float) -> None:
    """Probabilities whose log-odds are normal: some are near 1, some are spread over all of [0, 1]."""
    rng = np.random.default_rng(0)
    truth = (1 / (1 + np.exp(-rng.normal(mean, spread, 400_000)))).mean()
    drawn = 1 / (1 + np.exp(-rng.normal(mean, spread, (1000, 32))))
    found = [win_rate("rate", wins) for wins in drawn]
    assert np.mean([one["rate_low"] <= truth <= one["rate_high"] for one in found]) >= 0.93


def test_the_interval_at_equal_length_covers_the_truth() -> None:
    rng, covered = np.random.default_rng(0), []
    for _ in range(300):
        longer = rng.normal(5, 12, size=64).round()
        wins = (rng.random(64) < says(longer, 1.5, 1.0)).astype(np.float64)
        found = length_controlled("rate", wins, longer)
        covered.append(found["rate_low"] <= 1 / (1 + np.exp(-1.5)) <= found["rate_high"])
    assert np.mean(covered) >= 0.92


def test_the_interval_at_equal_length_is_wilsons_if_lengths_say_nothing() -> None:
    wins, longer = np.tile(np.repeat([1.0, 0.0], [9, 1]), 8), np.repeat(np.tile([-7.0, 7.0], 4), 10)
    found, plain = length_controlled("rate", wins, longer), win_rate("rate", wins)
    assert found == pytest.approx(plain, abs=2e-3)


def test_the_gap_is_paired() -> None:
    """Judges that agree on every prompt have a narrow gap, whatever the prompts; unpaired it would have a wide one."""
    wins = np.random.default_rng(0).random(50)
    same = gap("gap", wins, wins)
    assert same["gap"] == 0 and -0.05 < same["gap_low"] < 0 < same["gap_high"] < 0.05
    found = gap("gap", wins + 0.1, wins)
    assert found["gap"] == pytest.approx(0.1) and 0.05 < found["gap_low"] < 0.1 < found["gap_high"] < 0.15
    assert gap("gap", wins + 0.1, wins, confidence=0.999)["gap_low"] < found["gap_low"]
    silent = np.where(np.arange(50) < 10, np.nan, wins + 0.1)
    assert gap("gap", silent, wins)["gap"] == pytest.approx(0.1)
    assert gap("gap", silent, np.full(50, np.nan)) == {}


def test_the_drift_is_the_geometric_mean_of_the_ratios() -> None:
    start = np.array([10.0, 20.0, 30.0])
    assert length_drift("drift", start, 2 * start) == pytest.approx({"drift": 2, "drift_low": 2, "drift_high": 2})
    found = length_drift("drift", start, np.array([40.0, 20.0, 60.0]))
    assert found["drift"] == pytest.approx(2)
    half = 4.302653 * np.log(2) / np.sqrt(3)  # Student's t with two degrees of freedom
    assert found["drift_low"] == pytest.approx(2 / np.exp(half), rel=0.1)
    assert found["drift_high"] == pytest.approx(2 * np.exp(half), rel=0.1)
    assert length_drift("drift", start[:1], start[:1]) == {}
    assert length_drift("drift", np.array([0.0, 5.0]), np.array([1.0, 5.0]))["drift"] == 1  # no token counts as one


def test_intervals_of_the_drift_are_finite() -> None:
    found = length_drift("drift", np.array([1.0, 1.0]), np.array([1.0, 1e4]), confidence=1 - 1e-6)
    assert 0 < found["drift_low"] < found["drift"] < found["drift_high"] < np.inf


@pytest.mark.parametrize(("n", "t"), [(6, 2.5706), (16, 2.1314), (32, 2.0395), (128, 1.9788)])
def test_quantiles_of_student(n: int, t: float) -> None:
    """By tables, with n - 1 degrees of freedom."""
    assert student_quantile_of(0.95, n - 1) == pytest.approx(t, rel=0.003)


def test_lengths_of_an_unchanged_policy_rarely_trip_the_drift_and_longer_ones_do() -> None:
    """Of log-normal lengths in 30 rounds. More runs: `scripts/proofs/intervals.py`."""
    assert np.mean([rings(16, 1.2, seed) for seed in range(200)]) <= 0.05
    assert np.mean([rings(128, 0.8, seed, drift=1.5) for seed in range(60)]) >= 0.9


def rings(n: int, sigma: float, seed: int, *, drift: float = 1.0) -> bool:
    """Whether `length_drift` trips in 30 rounds; from the sixth on, lengths are `drift` times as large."""
    rng = np.random.default_rng(seed)
    prompts = rng.normal(4, sigma / 2, n)  # half of the deviation is the prompts'

    def lengths() -> np.ndarray:
        return np.exp(rng.normal(prompts, sigma * 0.75**0.5))

    start = lengths().round()
    rounds = [(lengths() * (drift if round >= 5 else 1.0)).round() for round in range(30)]
    metrics = [length_drift("eval/length_drift", start, new, confidence=1 - 0.05 / 31) for new in rounds]
    return any(tripped([each], Alarms()) for each in metrics)
