"""Agreement of verdicts with labels, on pairs small enough to count by hand."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rlhf_flow.metrics.reward_accuracy import Verdicts, measure, reliability

quick = settings(max_examples=8, deadline=None, derandomize=True)


def verdicts(
    odds: list[float],
    label: list[float],
    *,
    longer: list[float] | None = None,
    answers: list[tuple[str, str]] | None = None,
    prompt: list[int] | None = None,
) -> Verdicts:
    count = len(odds)
    return Verdicts(
        np.array(odds),
        np.array(label),
        np.array([0.0] * count if longer is None else longer),
        [(f"a{p}", f"b{p}") for p in range(count)] if answers is None else answers,
        np.arange(count) if prompt is None else np.array(prompt),
    )


def drawn(seed: int, count: int = 40) -> Verdicts:
    rng = np.random.default_rng(seed)
    odds = rng.normal(size=count)
    odds[0] = 0.0
    label = rng.choice([0.0, 0.3, 0.5, 1.0], count)
    return verdicts(odds.tolist(), label.tolist(), longer=rng.integers(-5, 6, count).astype(float).tolist())


def test_accuracy_leaves_ties_in_the_label_out_and_halves_those_of_the_model() -> None:
    found = measure(verdicts([1.0, -2.0, 0.0, 3.0, 5.0], [1.0, 0.2, 0.9, 0.1, 0.5]))
    assert found["accuracy"] == pytest.approx((1 + 1 + 0.5 + 0) / 4)
    assert found["pairs"] == 5
    assert found["accuracy_low"] < found["accuracy"] < found["accuracy_high"]


def test_log_loss_is_the_cross_entropy() -> None:
    q = 1 / (1 + math.exp(-1.0))
    assert measure(verdicts([1.0], [0.7]))["log_loss"] == pytest.approx(-0.7 * math.log(q) - 0.3 * math.log(1 - q))
    assert measure(verdicts([800.0], [1.0]))["log_loss"] == 0


def test_the_reliability_curve_counts_every_pair_once() -> None:
    sure, unsure = math.log(0.97 / 0.03), math.log(0.62 / 0.38)
    curve = reliability(verdicts([sure, -sure, unsure, 0.0], [1.0, 1.0, 1.0, 1.0]))
    assert [(round(bin["from"], 2), round(bin["to"], 2), bin["pairs"]) for bin in curve] == [
        (0.5, 0.55, 1),
        (0.6, 0.65, 1),
        (0.95, 1.0, 2),
    ]
    assert [bin["won"] for bin in curve] == [0.5, 1.0, 0.5]
    expected = (0 + (1 - 0.62) + 2 * abs(0.97 - 0.5)) / 4
    assert measure(verdicts([sure, -sure, unsure, 0.0], [1.0] * 4))["ece"] == pytest.approx(expected)


def test_length_bias_is_told_from_accuracy() -> None:
    by_length = verdicts([2.0, -1.0, 3.0], [1.0, 1.0, 0.0], longer=[4.0, -2.0, 6.0])
    found = measure(by_length)
    assert found["length_correlation"] == pytest.approx(1)
    assert found["longer_wins"] == found["accuracy"] == pytest.approx(1 / 3)
    assert "length_correlation" not in measure(verdicts([1.0], [1.0]))


@quick
@given(st.integers(0, 10**6))
def test_the_order_of_a_pair_does_not_matter(seed: int) -> None:
    here = drawn(seed)
    flip = np.random.default_rng(seed + 1).choice([-1.0, 1.0], len(here.odds))
    there = replace(here, odds=flip * here.odds, label=0.5 + flip * (here.label - 0.5), longer=flip * here.longer)
    measured = [
        {name: value for name, value in measure(each).items() if "always_first" not in name} for each in (here, there)
    ]
    assert measured[1] == pytest.approx(measured[0])


def test_the_baselines_are_measured_on_the_same_pairs() -> None:
    said = verdicts([1.0, -2.0, 3.0, 1.0], [1.0, 0.2, 0.0, 0.5], longer=[4.0, 2.0, 0.0, 3.0])
    found = measure(said)
    assert found["accuracy"] == pytest.approx(2 / 3)
    assert found["longer_wins"] == pytest.approx(1.5 / 3)  # where both are as long, it is a coin
    assert found["always_first"] == pytest.approx(1 / 3)
    assert found["over_longer_wins"] == pytest.approx(0.5 / 3)
    assert found["over_always_first"] == pytest.approx(1 / 3)
    for name in ("longer_wins", "always_first", "over_longer_wins"):
        assert found[f"{name}_low"] <= found[name] <= found[f"{name}_high"]


def test_what_it_is_over_a_baseline_that_says_the_same_is_exactly_nothing() -> None:
    rng = np.random.default_rng(0)
    odds = rng.normal(size=30)
    found = measure(verdicts(odds.tolist(), rng.choice([0.0, 1.0], 30).tolist(), longer=odds.tolist()))
    assert found["over_longer_wins"] == 0
    assert found["over_longer_wins_low"] == pytest.approx(-found["over_longer_wins_high"])
    assert found["accuracy_low"] < found["accuracy_high"]


def in_both_orders(forth: list[float], back: list[float], label: list[float]) -> Verdicts:
    """Comparisons that were asked twice."""
    count = len(label)
    asked = verdicts(forth + back, 2 * label, prompt=2 * list(range(count)))
    return replace(
        asked, answers=2 * [(f"a{p}", f"b{p}") for p in range(count)], comparison=np.array(2 * list(range(count)))
    )


def test_a_comparison_in_both_orders_is_one_pair_with_the_mean_of_both_probabilities() -> None:
    forth, back, label = [2.0, 3.0, -1.0], [1.0, -5.0, -0.5], [1.0, 0.9, 0.0]
    mean = [(1 / (1 + math.exp(-a)) + 1 / (1 + math.exp(-b))) / 2 for a, b in zip(forth, back, strict=True)]
    found = measure(in_both_orders(forth, back, label))
    expected = measure(verdicts([math.log(p / (1 - p)) for p in mean], label))
    assert found.pop("order_consistency") == pytest.approx(2 / 3)
    assert found == pytest.approx(expected)
    assert sum(bin["pairs"] for bin in reliability(in_both_orders(forth, back, label))) == 3


def test_of_what_was_asked_once_there_is_no_consistency() -> None:
    once = replace(verdicts([1.0, -1.0], [1.0, 1.0]), comparison=np.arange(2))
    assert "order_consistency" not in measure(once)
    assert measure(once) == pytest.approx(measure(replace(once, comparison=None)))


def test_a_tie_in_one_order_is_no_winner_that_both_name() -> None:
    assert measure(in_both_orders([0.0, 1.0], [1.0, 1.0], [1.0, 1.0]))["order_consistency"] == 0.5


def test_what_cannot_be_measured_is_absent() -> None:
    assert measure(verdicts([1.0, 2.0], [0.5, 0.5])).keys() == {"pairs", "log_loss", "ece"}


def test_pairs_of_one_prompt_are_not_independent() -> None:
    odds = [1.0] * 20 + [-1.0] * 20
    alone = measure(verdicts(odds, [1.0] * 40))
    together = measure(verdicts(odds, [1.0] * 40, prompt=[0] * 20 + [1] * 20))
    assert together["accuracy_low"] < 0.1 and together["accuracy_high"] > 0.9
    assert 0.3 < alone["accuracy_low"] < 0.5 < alone["accuracy_high"] < 0.7


def test_cycles_are_found_across_the_rows_of_a_prompt() -> None:
    around = [("r", "s"), ("s", "p"), ("p", "r")]
    straight = [("r", "s"), ("s", "p"), ("r", "p")]
    cyclic = verdicts([1.0, 1.0, 1.0], [1.0] * 3, answers=around, prompt=[0] * 3)
    assert (measure(cyclic)["cycles"], measure(cyclic)["cycle_accuracy"]) == (1, 1)
    wrong = replace(cyclic, odds=np.array([1.0, 1.0, -2.0]))  # as any number for each answer
    assert measure(wrong)["cycle_accuracy"] == 0
    turned = replace(cyclic, odds=-cyclic.odds, label=1 - cyclic.label)
    assert measure(turned)["cycle_accuracy"] == 1
    for other in (replace(cyclic, answers=straight), replace(cyclic, prompt=np.array([0, 0, 1]))):
        assert "cycles" not in measure(other)
