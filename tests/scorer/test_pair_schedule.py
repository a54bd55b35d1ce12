"""Which answers are compared where comparisons are dear, and what is made of the verdicts."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from itertools import combinations, permutations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from rlhf_flow.metrics.strengths import PRIOR, strengths
from rlhf_flow.scorer.pair_schedule import Ask, PairSchedule, PairVerdict, settled
from rlhf_flow.scorer.pairwise import Match
from rlhf_flow.selector.best_and_worst import BestAndWorst
from rlhf_flow.selector.tournament import Tournament
from rlhf_flow.selector.worth import log_odds, win_rates
from rlhf_flow.types import Rollouts, Scored
from tests.scorer.conftest import rollouts


def texts(worth: Sequence[int]) -> list[str]:
    """An answer of each worth; the order of the texts is that of the sequence."""
    return [f"{k:02d}:{value}" for k, value in enumerate(worth)]


def worth(text: str) -> int:
    return int(text.partition(":")[2])


def sure(match: Match) -> float:
    return float(worth(match.first.text) > worth(match.second.text))


def soft(match: Match) -> float:
    return 1 / (1 + math.exp((worth(match.second.text) - worth(match.first.text)) / 2))


def asking(verdict: Callable[[Match], float], turns: list[list[Match]] | None = None) -> Ask:
    def ask(matches: Sequence[Match]) -> list[PairVerdict]:
        if turns is not None:
            turns.append(list(matches))
        return [PairVerdict(verdict(match)) for match in matches]

    return ask


def judged(economy: PairSchedule, *answers: list[str], verdict: Callable[[Match], float] = sure) -> Scored:
    return economy.compare(rollouts(*answers), asking(verdict))


def asked(scored: Scored) -> list[int]:
    """How many pairs of different answers were asked about, of each prompt."""
    n = scored.wins.shape[1]
    return [(n * (n - 1) - int(unasked.sum())) // 2 for unasked in scored.pair_flags["unasked"]]


# -- who is best and who is worst -------------------------------------------------------------------------------------


@pytest.mark.parametrize("verdict", [sure, soft])
@pytest.mark.parametrize("n", [2, 4, 6, 8, 16])
def test_of_a_judge_that_never_errs_the_best_and_the_worst_are_found(n: int, verdict: Callable[[Match], float]) -> None:
    orders = [np.random.default_rng(seed).permutation(n).tolist() for seed in range(40)]
    scored = judged(PairSchedule(pairs="knockout"), *map(texts, orders), verdict=verdict)
    for b, order in enumerate(orders):
        best, worst = order.index(n - 1), order.index(0)
        assert scored.utility[b].argmax() == best and scored.utility[b].argmin() == worst
        assert scored.wins[b, best, worst] > 0.5, "they have met in the end"
    for selector in (BestAndWorst(), Tournament()):
        for pair in selector.select(scored).pairs if n != 6 else ():
            order = orders[int(pair.prompt[1:])]
            assert [order[int(id.split("/")[2])] for id in (pair.first, pair.second)] == [n - 1, 0]


def test_every_order_of_four_and_any_number_of_answers_has_its_best_in_a_knockout() -> None:
    for n in (3, 4, 5):
        orders = [list(order) for order in permutations(range(n))]
        scored = judged(PairSchedule(pairs="knockout"), *map(texts, orders))
        assert scored.utility.argmax(-1).tolist() == [order.index(n - 1) for order in orders]
        assert scored.utility.argmin(-1).tolist() == [order.index(0) for order in orders]


# -- how much is asked ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("n", "most"), [(8, 7 + 3 + 1), (2, 1)])
def test_so_many_are_asked_about_and_the_others_are_spared(n: int, most: int) -> None:
    scored = judged(
        PairSchedule(pairs="knockout"), *(texts(np.random.default_rng(b).permutation(n).tolist()) for b in range(9))
    )
    assert all(most - 1 <= number <= most for number in asked(scored)), "with a final, where the two had not met"
    made = sum(asked(scored))
    spared = 9 * n * (n - 1) // 2 - made
    assert scored.counts == {
        "judge/asked": made, "judge/verdicts": made, "judge/abstained": 0, "judge/spared": spared
    }  # fmt: skip
    unasked = scored.pair_flags["unasked"]
    np.testing.assert_array_equal(np.isnan(scored.wins), unasked)
    assert unasked.dtype == bool and not unasked[:, np.arange(n), np.arange(n)].any()


def test_all_are_asked_about_at_once() -> None:
    turns: list[list[Match]] = []
    scored = PairSchedule().compare(rollouts(["a", "b", "c"], ["d", "e", "d"]), asking(lambda match: 0.25, turns))
    assert [(match.first.text, match.second.text) for match in turns[0]] == [
        ("a", "b"),
        ("a", "c"),
        ("b", "c"),
        ("d", "e"),
    ]
    assert len(turns) == 1 and scored.pair_flags == {} and scored.counts["judge/abstained"] == 0
    np.testing.assert_allclose(scored.utility, scored.wins.mean(-1), atol=1e-6)


def test_a_round_is_asked_about_for_all_prompts_together_and_nobody_meets_twice() -> None:
    turns: list[list[Match]] = []
    answers = [texts(np.random.default_rng(b).permutation(8).tolist()) for b in range(20)]
    PairSchedule(pairs="knockout").compare(rollouts(*answers), asking(sure, turns))
    assert len(turns) == 4, "three rounds, and the finals"
    assert all({match.b for match in turn} == set(range(20)) for turn in turns[:3])
    met = [(match.b, match.first.text, match.second.text) for turn in turns for match in turn]
    assert len(met) == len(set(met)) and all(first < second for _, first, second in met)


# -- odd company ------------------------------------------------------------------------------------------------------


LETTERS = "abcdefg"
VERDICTS = st.fixed_dictionaries(
    {a + b: st.sampled_from([0.0, 0.3, 0.5, 1.0, math.nan]) for a, b in combinations(LETTERS, 2)}
)
ANSWERS = st.lists(st.lists(st.sampled_from(LETTERS), min_size=5, max_size=5), max_size=3)


@given(ANSWERS, VERDICTS)
def test_any_verdicts_give_a_ranking_whose_ends_have_been_asked_about(
    answers: list[list[str]], said: dict[str, float]
) -> None:
    scored = judged(
        PairSchedule(pairs="knockout"), *answers, verdict=lambda match: said[match.first.text + match.second.text]
    )
    assert ((scored.utility > 0) & (scored.utility < 1)).all()
    spared = abstained = 0
    for b, texts in enumerate(answers):
        best, worst = scored.utility[b].argmax(), scored.utility[b].argmin()
        assert not scored.pair_flags["unasked"][b, best, worst]
        first = {text: texts.index(text) for text in texts}
        for one, other in combinations(sorted(first), 2):
            i, j = first[one], first[other]
            spared += scored.pair_flags["unasked"][b, i, j]
            abstained += np.isnan(scored.wins[b, i, j]) and not scored.pair_flags["unasked"][b, i, j]
            assert scored.pair_flags["unasked"][b, i, j] or scored.wins[b, i, j] == pytest.approx(
                said[one + other], nan_ok=True
            )
        for k, text in enumerate(texts):
            assert scored.wins[b, k, first[text]] == 0.5 and scored.utility[b, k] == scored.utility[b, first[text]]
    made = scored.counts["judge/asked"]
    assert scored.counts == {
        "judge/asked": made, "judge/verdicts": made - abstained, "judge/abstained": abstained, "judge/spared": spared
    }  # fmt: skip


@given(ANSWERS, VERDICTS)
def test_the_order_of_prompts_and_answers_changes_no_bit(answers: list[list[str]], said: dict[str, float]) -> None:
    def scored(asked: Rollouts) -> Scored:
        return PairSchedule(pairs="knockout").compare(
            asked, asking(lambda match: said[match.first.text + match.second.text])
        )

    here = rollouts(*answers)
    forth, back = (
        scored(here),
        scored(Rollouts(1, here.prompts[::-1], tuple(row[::-1] for row in here.responses[::-1]))),
    )
    np.testing.assert_array_equal(forth.utility, back.utility[::-1, ::-1])
    np.testing.assert_array_equal(forth.wins, back.wins[::-1, ::-1, ::-1])


# -- what it is worth -------------------------------------------------------------------------------------------------


def test_strengths_are_those_that_the_verdicts_are_likeliest_under() -> None:
    wins = np.array([[0.5, 0.9, np.nan], [0.1, 0.5, 0.7], [np.nan, 0.3, 0.5]])
    theta = strengths(wins)

    def loss(theta: np.ndarray) -> float:
        def entropy(p: float, nats: float) -> float:
            return float(np.logaddexp(0, nats) - p * nats)

        return (
            entropy(0.9, theta[0] - theta[1])
            + entropy(0.7, theta[1] - theta[2])
            + 2 * PRIOR * sum(entropy(0.5, t) for t in theta)
        )

    assert theta[0] > theta[1] > theta[2]
    for step in np.eye(3) * 1e-4:
        assert loss(theta) < min(loss(theta + step), loss(theta - step))


def test_strengths_are_finite_whoever_wins() -> None:
    everything = np.triu(np.ones((64, 64)), 1) + 0.5 * np.eye(64)
    theta = strengths(everything)
    assert np.isfinite(theta).all() and (np.diff(theta) < 0).all()
    np.testing.assert_array_equal(strengths(np.where(np.eye(4), 0.5, np.nan)), np.zeros(4))


@pytest.mark.parametrize("spread", [0.5, 2.0])
def test_win_rates_do_not_shrink_where_few_pairs_were_compared(spread: float) -> None:
    """Of eight answers that meet in a knockout, with verdicts that are probabilities."""
    rng = np.random.default_rng(0)
    theta = rng.normal(0, spread, (60, 8))
    answers = [[f"{k}:{value:.6f}" for k, value in enumerate(row)] for row in theta]

    def verdict(match: Match) -> float:
        one, other = (float(answer.text.partition(":")[2]) for answer in (match.first, match.second))
        return 1 / (1 + math.exp(other - one))

    scored = judged(PairSchedule(pairs="knockout"), *answers, verdict=verdict)
    truth = (1 / (1 + np.exp(theta[:, None, :] - theta[:, :, None]))).mean(-1)
    for found in (scored.utility, win_rates(scored, None)):
        assert np.polyfit(truth.ravel(), found.ravel(), 1)[0] > 0.95
    odds = (theta[:, :, None] - theta[:, None, :]).mean(-1)
    assert np.polyfit(odds.ravel(), log_odds(scored, None).ravel(), 1)[0] > 0.99
    asked = np.where(np.isnan(scored.wins), 0, scored.wins).sum(-1) / (~np.isnan(scored.wins)).sum(-1)
    assert np.polyfit(truth.ravel(), asked.ravel(), 1)[0] < 0.8  # of the verdicts alone


def test_the_utility_is_a_win_rate_over_all_answers() -> None:
    scored = judged(PairSchedule(pairs="knockout"), ["a:2", "b:1", "c:0", "a:2"], verdict=soft)
    assert scored.utility.sum() == pytest.approx(4 / 2, abs=1e-6)
    assert scored.utility[0, 0] == scored.utility[0, 3]


def test_a_cycle_ranks_nobody_and_is_a_tie() -> None:
    beats = {"ab": 1.0, "bc": 1.0, "ac": 0.0}
    scored = judged(
        PairSchedule(pairs="knockout"),
        ["a", "b", "c"],
        verdict=lambda match: beats[match.first.text + match.second.text],
    )
    np.testing.assert_allclose(scored.utility, 0.5, atol=1e-6)


# -- two orders -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("forth", "back", "p", "mark"),
    [
        (0.9, 0.2, 0.85, None),
        (0.9, 0.6, 0.65, "inconsistent"),
        (0.1, 0.3, 0.4, "inconsistent"),
        (1.0, 1.0, 0.5, "inconsistent"),
        (0.9, 0.5, 0.7, None),
    ],
)
def test_both_orders_are_averaged_and_contradict_where_they_prefer_one_place(
    forth: float, back: float, p: float, mark: str | None
) -> None:
    assert settled(forth, back, inconsistent="average") == PairVerdict(pytest.approx(p), mark)
    strict = settled(forth, back, inconsistent="abstain")
    assert math.isnan(strict.p) == (mark is not None) and strict.mark == mark


def test_without_a_verdict_in_one_order_nothing_contradicts() -> None:
    silent = settled(math.nan, 0.9, inconsistent="abstain")
    assert math.isnan(silent.p) and silent.mark is None


def test_a_mark_is_of_both_and_of_all_who_gave_the_same_answer() -> None:
    def ask(matches: Sequence[Match]) -> list[PairVerdict]:
        turned = {"ab": "inconsistent"}
        return [PairVerdict(0.5, turned.get(match.first.text + match.second.text)) for match in matches]

    scored = PairSchedule().compare(rollouts(["a", "b", "c", "a"]), ask, marks=["inconsistent", "capped"])
    expected = np.zeros((4, 4), dtype=bool)
    expected[[0, 1, 3, 1], [1, 0, 1, 3]] = True
    np.testing.assert_array_equal(scored.pair_flags["inconsistent"], expected[None])
    assert not scored.pair_flags["capped"].any() and scored.pair_flags["capped"].dtype == bool


# -- fields -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({"pairs": "swiss"}, r"scorer\.pairs must be one of all, knockout, got 'swiss'"),
    ],
)
def test_what_is_no_economy_is_refused(fields: dict[str, object], said: str) -> None:
    with pytest.raises(ValueError, match=said):
        PairSchedule(**fields)


@pytest.mark.parametrize("pairs", ["all", "knockout"])
def test_nothing_to_compare_is_asked_about_once(pairs: str) -> None:
    for answers in ([], [["a"]], [["a", "a"]]):
        turns: list[list[Match]] = []
        scored = PairSchedule(pairs=pairs).compare(rollouts(*answers), asking(sure, turns))
        assert turns == [[]] and (scored.utility == 0.5).all()
        assert all(mark.dtype == bool for mark in scored.pair_flags.values())
