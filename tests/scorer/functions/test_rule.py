from __future__ import annotations

import time

import numpy as np
import pytest

from rlhf_flow.scorer.functions.rule import Rule
from rlhf_flow.scorer.functions.rules import Rules, Term
from rlhf_flow.specs import Place
from tests.scorer.conftest import rollouts

HERE = "tests.support.rules"
LENGTH = "rlhf_flow.scorer.shipped.length"


def test_aspects_come_through() -> None:
    scored = Rule(f"{HERE}.aspects").open(Place()).score(rollouts(["a", "bbb"], ["", "cc"]))
    np.testing.assert_array_equal(scored.utility, [[1, 3], [1, 3]])
    np.testing.assert_array_equal(scored.aspects["length"], [[1, 3], [0, 2]])
    np.testing.assert_array_equal(scored.aspects["level"], [[0, 0], [1, 1]])
    np.testing.assert_array_equal(scored.wins[0], [[0.5, 0], [1, 0.5]])
    assert scored.counts == {"judge/queries": 4, "judge/abstained": 0}


def test_a_rule_sees_the_gold_answer() -> None:
    scored = Rule(f"{HERE}.right").open(Place()).score(rollouts(["4", "5", "4"], gold="4"))
    np.testing.assert_array_equal(scored.utility, [[1, 0, 1]])
    assert scored.wins[0, 0, 2] == 0.5


@pytest.mark.parametrize("answer", ["huge", "text", "aspect"])
def test_what_is_no_number_names_the_response(answer: str) -> None:
    with pytest.raises(ValueError, match=r"moody must return .*, finite in float32.*'1/policy/1/q0'"):
        Rule(f"{HERE}.moody").open(Place()).score(rollouts(["fine", answer]))


def test_an_abstention_has_no_worth_and_meets_nobody() -> None:
    scored = Rule(f"{HERE}.moody").open(Place()).score(rollouts(["fine", "none", "nan", "fine"]))
    np.testing.assert_array_equal(scored.utility, [[1, np.nan, np.nan, 1]])
    x = np.nan
    np.testing.assert_array_equal(scored.wins[0], [[0.5, x, x, 0.5], [x, 0.5, x, x], [x, x, 0.5, x], [0.5, x, x, 0.5]])
    assert scored.counts == {"judge/queries": 4, "judge/abstained": 2}
    assert scored.aspects == {}


def test_an_abstention_need_not_name_the_aspects() -> None:
    scored = Rule(f"{HERE}.moody").open(Place()).score(rollouts(["none", "more", "nan"]))
    np.testing.assert_array_equal(scored.aspects["tone"], [[np.nan, 1, np.nan]])


def test_arguments_reach_the_function() -> None:
    scored = Rule(LENGTH, {"least": 2, "most": 3}).open(Place()).score(rollouts(["", "aa", "aaa", "aaaaa"]))
    np.testing.assert_array_equal(scored.utility, [[-2, 0, 0, -2]])


@pytest.mark.parametrize("arguments", [{"mots": 3}, {"answer": "mine"}])
def test_arguments_that_the_function_does_not_take_are_refused_before_any_worker_starts(arguments) -> None:
    with pytest.raises(ValueError, match=r"scorer.arguments must be those of .*length\(.*most.*argument.*Fix: give .*"):
        Rule(LENGTH, arguments).check()


def test_aspects_must_be_the_same_throughout() -> None:
    with pytest.raises(ValueError, match=r"same aspects .*\(tone\).*'1/policy/1/q0' it named none"):
        Rule(f"{HERE}.moody").open(Place()).score(rollouts(["more", "fine"]))


def test_an_error_inside_a_rule_names_the_response() -> None:
    with pytest.raises(KeyError, match="no such thing") as raised:
        Rule(f"{HERE}.broken").open(Place()).score(rollouts(["a"]))
    assert "'1/policy/0/q0'" in raised.value.__notes__[0]


@pytest.mark.parametrize(
    ("function", "said"),
    [
        ("length", r"must be written module.function.*Fix: scorer.function=module.length, with its module\."),
        ("tests.scorer.", "must be written module.function"),
        ("rews.py:two", r"Fix: scorer.function=rews.two\."),
        ("./rews.plain", r"Fix: scorer.function=rews.plain\."),
        ("my_lab/rews.py:two", r"Fix: scorer.function=my_lab.rews.two\."),
        (
            f"{HERE}.two",
            r"two: it must take \(prompt, answer, meta\), and its parameters are \(prompt, answer\).*Fix: def two",
        ),
        (f"{HERE}.of_a_trainer", r"must take \(prompt, answer, meta\).*Fix: def of_a_trainer\(prompt, answer, meta\)"),
        ("no_such_module.f", "importing 'no_such_module' failed with ModuleNotFoundError.*PYTHONPATH"),
        ("tests.support.broken_rules.f", "RuntimeError: half written"),
        (f"{HERE}.lenght", r"'lenght' is not there\. Fix: .*length"),
        (f"{HERE}.not_a_function", "'not_a_function' is no function"),
    ],
)
def test_what_cannot_be_imported_is_refused_before_any_worker_starts(function: str, said: str) -> None:
    with pytest.raises(ValueError, match=said):
        Rule(function).check()


@pytest.mark.parametrize(
    ("function", "batched"), [("length", None), ("lengths", True), ("later", None), ("later_lengths", True)]
)
def test_one_at_a_time_in_batches_or_awaited_a_function_says_the_same(function: str, batched: bool | None) -> None:
    judge = Rule(f"{HERE}.{function}", batched=batched)
    judge.check()
    scored = judge.open(Place()).score(rollouts(["a", "bbb"], ["", "cc"]))
    np.testing.assert_array_equal(scored.utility, [[1, 3], [0, 2]])


def test_an_async_function_is_asked_about_many_answers_at_a_time() -> None:
    began = time.monotonic()
    scored = Rule(f"{HERE}.later").open(Place()).score(rollouts([*("x" * k for k in range(24)), "none"]))
    assert np.isnan(scored.utility[0, 24]) and scored.utility[0, 23] == 23
    assert time.monotonic() - began < 24 * 0.2


def test_arguments_reach_a_batched_function_and_its_terms() -> None:
    judge = Rule(f"{HERE}.lengths", {"plus": 2}, batched=True)
    np.testing.assert_array_equal(judge.open(Place()).score(rollouts(["a"])).utility, [[3]])
    several = Rules([Term(f"{HERE}.lengths", batched=True), Term(f"{HERE}.later", weight=-1.0)])
    np.testing.assert_array_equal(several.open(Place()).score(rollouts(["a", "bb"])).utility, [[0, 0]])


@pytest.mark.parametrize(("function", "got"), [("too_few", "1 of them"), ("no_list", "1.0")])
def test_a_batch_without_a_judgement_for_each_answer_is_refused(function: str, got: str) -> None:
    with pytest.raises(ValueError, match=f"must return a list of 2 judgements, one of each answer, got {got}"):
        Rule(f"{HERE}.{function}", batched=True).open(Place()).score(rollouts(["a", "bb"]))


def test_what_an_async_function_raises_names_the_response() -> None:
    with pytest.raises(KeyError) as raised:
        Rule(f"{HERE}.later").open(Place()).score(rollouts(["a", "broken"]))
    assert "'1/policy/1/q0'" in raised.value.__notes__[0]
