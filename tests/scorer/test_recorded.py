"""Labels of a data set, as a judge."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import replace

import numpy as np
import pytest

from rlhf_flow.scorer.recorded import Recorded
from rlhf_flow.specs import Place
from rlhf_flow.types import Rollouts, SamplingParams, Scored
from tests.scorer.conftest import rollouts

DRAWS = ("first", "second", "third")


def compared(*metas: Mapping[str, object], answers: int = 2) -> Rollouts:
    """Prompts with these columns and answers of the draws first, second, ..."""
    asked = rollouts(*([f"answer {k}" for k in range(answers)] for _ in metas))
    prompts = tuple(replace(prompt, meta=meta) for prompt, meta in zip(asked.prompts, metas, strict=True))
    named = tuple(
        tuple(replace(one, draw=SamplingParams(name=name, n=1)) for one, name in zip(group, DRAWS, strict=False))
        for group in asked.responses
    )
    return replace(asked, prompts=prompts, responses=named)


def score(spec: Recorded, asked: Rollouts) -> Scored:
    spec.check()
    return spec.open(Place()).score(asked)


def test_a_preference_is_what_the_column_says() -> None:
    scored = score(Recorded(preference="p"), compared({"p": 0.8}, {"p": None}, {"p": True}, {"p": 0}))
    np.testing.assert_allclose(scored.wins[:, 0, 1], [0.8, math.nan, 1, 0], rtol=1e-6)
    np.testing.assert_allclose(scored.wins[:, 1, 0], [0.2, math.nan, 0, 1], rtol=1e-6)
    np.testing.assert_allclose(scored.utility[:, 0], [0.65, 0.5, 0.75, 0.25], rtol=1e-6)
    assert scored.counts == {"judge/queries": 3}
    assert Recorded(preference="p").intransitive


def test_a_strength_is_the_log_odds() -> None:
    scored = score(Recorded(strength="s", scale=0.5), compared({"s": 3}, {"s": -2.0}, {"s": 0}, {"s": None}))
    odds = [1.5, -1.0, 0.0]
    np.testing.assert_allclose(scored.wins[:3, 0, 1], [1 / (1 + math.exp(-x)) for x in odds], rtol=1e-6)
    np.testing.assert_allclose(scored.wins[:3, 1, 0], [1 / (1 + math.exp(x)) for x in odds], rtol=1e-6)
    assert np.isnan(scored.wins[3, 0, 1]) and scored.counts == {"judge/queries": 3}
    assert Recorded(strength="s").intransitive


def test_ratings_may_stand_beside_preferences() -> None:
    ratings = {"first": "a", "second": "b"}
    both = {"a": 1, "b": 4.0, "s": 2}  # the worse rated is preferred: both are kept as they were given
    scored = score(Recorded(strength="s", ratings=ratings), compared(both, {"a": None, "b": 2, "s": None}))
    assert scored.wins[0, 0, 1] == pytest.approx(1 / (1 + math.exp(-2)))
    np.testing.assert_array_equal(scored.utility, np.array([[1, 4], [math.nan, 2]], dtype=np.float32))
    assert np.isnan(scored.wins[1, 0, 1]) and scored.counts == {"judge/queries": 4}
    assert Recorded(preference="p", ratings=ratings).intransitive and not Recorded(ratings=ratings).intransitive


def test_without_a_column_the_first_won() -> None:
    scored = score(Recorded(first="second", second="first"), compared({}))
    np.testing.assert_array_equal(scored.wins[0], [[0.5, 0], [1, 0.5]])


def test_of_other_answers_nothing_is_known() -> None:
    scored = score(Recorded(preference="p"), compared({"p": 0.8}, answers=3))
    assert np.isnan(scored.wins[0, 2, :2]).all() and np.isnan(scored.wins[0, :2, 2]).all()
    assert scored.utility[0, 2] == 0.5


def test_ratings_win_by_their_difference() -> None:
    spec = Recorded(ratings={"first": "a", "second": "b", "third": "c"}, scale=0.5)
    scored = score(spec, compared({"a": 4, "b": 1.0, "c": None}, answers=3))
    np.testing.assert_array_equal(scored.utility[0], np.array([4, 1, math.nan], dtype=np.float32))
    assert scored.wins[0, 0, 1] == pytest.approx(1 / (1 + math.exp(-1.5)))
    assert np.isnan(scored.wins[0, 2, 0])
    assert scored.counts == {"judge/queries": 2}
    assert not spec.intransitive


@pytest.mark.parametrize(
    ("spec", "meta", "said"),
    [
        (Recorded(preference="p"), {"q": 1}, r"scorer.preference=p must be a column .*'q0' has only q"),
        (Recorded(preference="p"), {"p": 1.5}, r"scorer.preference=p must be P\(first beats second\).*1.5 in 'q0'"),
        (Recorded(preference="p"), {"p": "yes"}, r"scorer.preference=p must hold numbers.*'q0' has 'yes'"),
        (Recorded(ratings={"first": "a"}), {"a": 1}, r"has none for 'second' \(first\)"),
        (Recorded(second="other"), {}, r"one answer of the draw 'other'.*'q0' has 0 \(draws: first, second\)"),
    ],
)
def test_a_label_that_is_none_names_the_prompt(spec: Recorded, meta: Mapping[str, object], said: str) -> None:
    with pytest.raises(ValueError, match=said):
        score(spec, compared(meta))


@pytest.mark.parametrize(
    ("fields", "key"),
    [
        ({"second": "first"}, "second"),
        ({"preference": "p", "strength": "s"}, "strength"),
        ({"scale": 0.0}, "scale"),
    ],
)
def test_values_that_make_no_sense_are_refused(fields: dict[str, object], key: str) -> None:
    with pytest.raises(ValueError, match=rf"scorer.{key} must be"):
        Recorded(**fields)
