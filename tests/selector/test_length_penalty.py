"""A penalty per token: one number ranks, labels and is taught."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rlhf_flow.selector import PARTS
from rlhf_flow.selector.all_pairs import AllPairs
from rlhf_flow.selector.best_and_worst import BestAndWorst
from rlhf_flow.selector.length_penalty import penalised
from rlhf_flow.types import Scored, Selection
from tests.support.worlds import response, scored, sides, worlds


def sigma(nats: np.ndarray | float) -> np.ndarray:
    return 1 / (1 + np.exp(-np.asarray(nats, dtype=np.float64)))


def spoken(*answers: tuple[float, int], wins: object = None) -> Scored:
    """One prompt; an answer for each (utility, number of tokens)."""
    responses = [response(k, tokens=[k] * length) for k, (_, length) in enumerate(answers)]
    return scored([responses], [[utility for utility, _ in answers]], None if wins is None else np.array([wins]))


def chosen(world: Scored, **fields: object) -> list[tuple[int, int, float]]:
    return sides(BestAndWorst(**fields).select(world))


def buckets(selection: Selection) -> list[str]:
    return list(selection.response_buckets.values())


def test_one_number_ranks_and_labels() -> None:
    world = spoken((3.0, 30), (2.0, 5), (1.5, 20))
    assert chosen(world) == [(0, 2, 1.0)]
    assert chosen(world, length_penalty=0.1) == [(1, 2, 1.0)]  # 0.0, 1.5, -0.5
    assert chosen(world, length_penalty=0.25) == [(1, 0, 1.0)]  # -4.5, 0.75, -3.5: the judge has 0 beat 1


def test_and_it_is_what_is_taught() -> None:
    (pair,) = BestAndWorst(length_penalty=0.25).select(spoken((3.0, 30), (2.0, 5))).pairs
    assert (pair.first, pair.worth) == ("1/policy/1/q0", (0.75, 0.25))


@given(st.lists(st.tuples(st.floats(-5, 5), st.integers(1, 40)), min_size=2, max_size=6), st.floats(0, 0.5))
def test_a_bradley_terry_judge_stays_one(answers: list[tuple[float, int]], price: float) -> None:
    worth = np.array([utility for utility, _ in answers])
    after = penalised(spoken(*answers, wins=sigma(worth[:, None] - worth)), price)
    paid = worth - price * np.array([length for _, length in answers])
    np.testing.assert_allclose(after.wins[0], sigma(paid[:, None] - paid), atol=1e-5)
    np.testing.assert_allclose(after.wins + after.wins.swapaxes(1, 2), 1, atol=1e-12)
    if np.ptp(worth) > 1e-3:
        np.testing.assert_allclose(after.utility[0], paid, atol=1e-5)


def test_a_soft_label_pays_too_and_a_shorter_answer_wins_a_tie() -> None:
    world = spoken((0.7, 30), (0.3, 10), wins=[[0.5, 0.9], [0.1, 0.5]])
    ((first, second, preference),) = chosen(world, label="soft", length_penalty=0.05)
    assert (first, second, preference) == (0, 1, pytest.approx(sigma(math.log(9) - 1)))
    assert chosen(world, label="soft", length_penalty=0.15) == [(1, 0, pytest.approx(sigma(3 - math.log(9))))]
    level = spoken((0.5, 30), (0.5, 10), wins=[[0.5, 0.5], [0.5, 0.5]])
    assert chosen(level, length_penalty=0.01) == [(1, 0, 1.0)]
    assert BestAndWorst().select(level).pair_counts == {"tie": 1}


def test_a_judge_of_pairs_pays_in_log_odds_and_not_in_win_rate() -> None:
    rates = np.array([0.7, 0.5, 0.3])  # of 1/2 + 0.9 + 0.7, and so on
    wins = [[0.5, 0.9, 0.7], [0.1, 0.5, 0.9], [0.3, 0.1, 0.5]]
    after = penalised(spoken(*zip(rates, [40, 20, 30], strict=True), wins=wins), 0.01)
    paid = np.log(rates / (1 - rates)) - 0.01 * np.array([10, -10, 0])
    np.testing.assert_allclose(after.utility[0], sigma(paid), atol=1e-6)
    assert after.wins[0, 0, 1] == pytest.approx(float(sigma(math.log(9) - 0.2)), abs=1e-6)


def test_a_certain_verdict_is_bought_by_the_difference_of_the_utilities() -> None:
    def verdict(price: float) -> float:
        world = spoken((0.75, 30), (0.25, 10), wins=[[0.5, 1.0], [0.0, 0.5]])  # log-odds log 3 and -log 3
        return float(penalised(world, price).wins[0, 0, 1])

    assert verdict(2.1 / 20) == 1 and verdict(2.3 / 20) == 0  # 2 log 3 = 2.197


def test_no_penalty_makes_a_verdict_where_there_was_none() -> None:
    nan = math.nan
    after = penalised(spoken((nan, 3), (2.0, 4), wins=[[0.5, nan], [nan, 0.5]]), 0.5)
    assert math.isnan(after.wins[0, 0, 1]) and math.isnan(after.utility[0, 0])
    certain = spoken((nan, 3), (2.0, 4), wins=[[0.5, 1.0], [0.0, 0.5]])
    assert BestAndWorst(length_penalty=0.5).select(certain).pair_counts == {"abstained": 1}


def test_without_a_penalty_nothing_is_touched_and_there_may_be_no_prompts() -> None:
    world = spoken((1.0, 3), (2.0, 4))
    assert penalised(world, 0.0) is world
    assert penalised(scored([], np.zeros((0, 3)), np.zeros((0, 3, 3))), 1.0).wins.shape == (0, 3, 3)


@pytest.mark.parametrize("name", PARTS)
@settings(deadline=None, max_examples=20)
@given(data=st.data())
def test_every_selector_sees_the_penalised_judge(name: str, data: st.DataObject) -> None:
    world = data.draw(worlds(st.just(2) if name == "only_pair" else st.integers(2, 4)))
    own = {"floor": None, "margin": 0.4} if name == "margin" else {}
    by_field = PARTS[name](length_penalty=0.3, **own).select(world)
    assert by_field == PARTS[name](**own).select(penalised(world, 0.3))


@pytest.mark.parametrize("penalty", [-0.1, math.nan, math.inf])
def test_what_is_no_price_is_refused(penalty: float) -> None:
    with pytest.raises(ValueError, match=r"selector\.length_penalty must be >= 0 and finite, .* got"):
        BestAndWorst(length_penalty=penalty)


def test_a_win_rate_of_0_or_1_pays_too() -> None:
    """It counts as 1e-6 from certain. The judge compares pairs even if an answer lost all of them."""
    certain = spoken((1.0, 10), (0.0, 30), wins=[[math.nan, 1.0], [0.0, math.nan]])
    odds = math.log(1e-6) - math.log1p(-1e-6)
    after = penalised(certain, 0.1).utility[0]
    np.testing.assert_allclose(np.log(after) - np.log1p(-after), [1.0 - odds, odds - 1.0], rtol=1e-9)


def test_a_utility_is_a_win_rate_up_to_rounding() -> None:
    rates = np.array([0.2, 0.8])
    wins = [[math.nan, 0.2], [0.8, math.nan]]
    near, far = (spoken(*zip(rates * by, (10, 30), strict=True), wins=wins) for by in (1 + 0.5e-5, 1 + 1.5e-5))
    assert penalised(near, 0.1).utility[0, 1] == pytest.approx(sigma(math.log(4) - 1), abs=1e-4)
    np.testing.assert_allclose(penalised(far, 0.1).utility[0], rates - [1.0, 3.0], atol=1e-4)


# -- answers that are too long ----------------------------------------------------------------------------------------


def test_an_answer_that_is_too_long_is_in_no_pair() -> None:
    world = spoken((9.0, 6), (2.0, 5), (1.0, 4))
    selection = AllPairs(longest=5).select(world)
    assert sides(selection) == [(1, 2, 1.0)]
    assert buckets(selection) == ["too_long", "used", "used"]
    alone = AllPairs(longest=4).select(world)
    assert alone.pair_counts == {"no_pair": 1} and buckets(alone) == ["too_long", "too_long", "no_pair"]


def test_a_cut_answer_is_called_cut_whatever_its_length() -> None:
    cut = [response(0, tokens=[1] * 9, truncated=True), response(1), response(2)]
    world = scored([cut], [[1.0, 2.0, 3.0]])
    assert buckets(AllPairs(longest=5).select(world))[0] == "truncated"
    assert buckets(AllPairs(longest=5, truncated="keep").select(world))[0] == "too_long"
    with pytest.raises(ValueError, match=r"selector\.longest must be >= 1, a number of tokens \(null: any\), got 0"):
        AllPairs(longest=0)
