"""Each answer as an example of its own, whatever the scorer says."""

from __future__ import annotations

import numpy as np
import pytest

from rlhf_flow.scorer.none import NoScorer
from rlhf_flow.selector.single import Single
from rlhf_flow.specs import Place
from tests.support.worlds import response, scored


def test_every_whole_answer_is_an_example_and_the_rest_is_counted() -> None:
    answers = [response(0, truncated=True), response(1), response(2, draw="reference")]
    world = scored([answers], np.full((1, 3), np.nan))
    selection = Single(among=["policy"]).select(world)
    (example,) = selection.pairs
    assert (example.first, example.second, example.others, example.preference) == (answers[1].id, None, (), 1.0)
    assert list(selection.response_buckets.values()) == ["truncated", "used", "not_selected"]
    assert selection.pair_counts == {"used": 1, "no_pair": 2}
    assert len(Single(truncated="keep").select(world).pairs) == Single().max_pairs({"policy": 2, "reference": 1}) == 3


def test_one_answer_per_prompt_suffices_and_draws_must_exist() -> None:
    Single().check({"answer": 1})
    with pytest.raises(ValueError, match="among"):
        Single(among=["other"]).check({"answer": 1})


def test_no_scorer_abstains() -> None:
    world = scored([[response(0), response(1)]], np.zeros((1, 2)))
    found = NoScorer().open(Place()).score(world.rollouts)
    assert np.isnan(found.utility).all() and np.isnan(found.wins[0, 0, 1]) and found.wins[0, 0, 0] == 0.5
