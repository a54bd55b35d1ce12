"""The work of a run: optimizer steps as the learner takes them, calls as judges make them."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rlhf_flow.capacity.api_calls import calls, matches
from rlhf_flow.capacity.workload import steps_of
from rlhf_flow.learner.batching import global_batches
from rlhf_flow.scorer.pair_schedule import PairSchedule, PairVerdict
from rlhf_flow.types import Prompt, Response, Rollouts, SamplingParams
from tests.support.configured import WORK, configured, training


@settings(max_examples=20, deadline=None)
@given(pairs=st.integers(0, 300), batch=st.integers(1, 80), epochs=st.integers(1, 3))
def test_steps_are_those_that_the_learner_takes(pairs: int, batch: int, epochs: int) -> None:
    config = training(configured(), batch=batch, epochs=epochs)
    work = replace(WORK, prompts=pairs, pairs=1)
    steps, last = steps_of(config, work)
    taken = global_batches(pairs, batch=batch, epochs=epochs, seed=0, round=1)
    assert steps == len(taken)
    assert last == (len(taken[-1]) if taken else 0)


@dataclass(frozen=True, kw_only=True)
class Counting(PairSchedule):
    """Says who wins by the text, and counts how often it is asked."""


@pytest.mark.parametrize("pairs", ["all", "knockout"])
@pytest.mark.parametrize("answers", [2, 3, 4, 7, 8, 16])
def test_no_judge_is_asked_about_more_matches_than_are_planned(pairs: str, answers: int) -> None:
    asked = 0

    def ask(some: object) -> list[PairVerdict]:
        nonlocal asked
        asked += len(some)  # type: ignore[arg-type]
        return [PairVerdict(0.9) for _ in some]  # type: ignore[attr-defined]

    responses = tuple(
        Response(f"1/policy/{k}/p", np.array([k]), f"answer {k}", None, False, SamplingParams(n=answers), k, "")
        for k in range(answers)
    )
    judge = Counting(pairs=pairs)
    judge.compare(Rollouts(1, (Prompt("p", (), (0,)),), (responses,)), ask)
    assert asked <= matches(judge, answers) <= answers * (answers - 1) // 2
    if pairs == "all":
        assert asked == matches(judge, answers)


def test_a_judge_costs_what_its_prices_say_and_a_cap_below_that_is_told() -> None:
    config = configured(
        scorer="judge",
        **{
            "scorer.model": "any",
            "scorer.budget.price_per_million_in": 2.0,
            "scorer.budget.max_calls": 1000,
            "sampler.draws.0.n": 4,
        },
    )
    of_training, of_evaluation = calls(config, replace(WORK, answers=4, prompts=10, held_out=5))
    assert of_training.round == 10 * 6 * 2  # every two of four, in both orders
    assert of_evaluation.round == 5 * 1 * 2
    assert of_training.run == config.rounds * of_training.round
    assert of_training.cost == pytest.approx(of_training.tokens_in * 2e-6)
    assert not of_training.over
    (over,) = calls(replace(config, rounds=9), replace(WORK, answers=4, prompts=10, held_out=5))[0].over
    assert "max_calls=1000" in over
