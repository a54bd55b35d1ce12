"""What is written to a round's files is what is read from them."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from rlhf_flow.storage import parquet as rows
from rlhf_flow.types import SamplingParams, Scored
from tests.support import toy


@given(seed=st.integers(0, 2**32 - 1), n=st.integers(1, 4), named=st.sets(st.sampled_from(["overdue", "capped"])))
def test_scores_come_back_as_they_were(seed: int, n: int, named: set[str]) -> None:
    engine, generator = toy.Engine(), np.random.default_rng(seed)
    rollouts = engine.generate(toy.Prompts().all, toy.start(), SamplingParams(n=n), round=1, seed=seed % 1000)
    shape = (len(rollouts.prompts), n, n)
    wins = generator.random(shape)
    wins = np.where(generator.random(shape) < 0.3, np.nan, wins)
    wins[:, range(n), range(n)] = 0.5
    scored = Scored(
        rollouts,
        utility=generator.random(shape[:2]),
        wins=wins,
        aspects={"tone": generator.random(shape[:2])},
        pair_flags={name: generator.random(shape) < 0.5 for name in sorted(named)},
    )
    back = rows.to_scored(rows.from_scored(scored), rollouts)
    for name in ("utility", "wins"):
        np.testing.assert_array_equal(vars(back)[name], vars(scored)[name])
    for name in ("aspects", "pair_flags"):
        assert vars(back)[name].keys() == vars(scored)[name].keys()
        for key, values in vars(back)[name].items():
            np.testing.assert_array_equal(values, vars(scored)[name][key])


def test_scores_of_other_responses_are_refused() -> None:
    rollouts = toy.Engine().generate(toy.Prompts().all, toy.start(), SamplingParams(n=2), round=1, seed=0)
    table = rows.from_scored(toy.HigherIsBetter().score(rollouts))
    other = replace(rollouts, prompts=rollouts.prompts[:1], responses=rollouts.responses[:1])
    try:
        rows.to_scored(table, other)
    except ValueError as error:
        assert "name different responses" in str(error)
    else:
        raise AssertionError("the scores of six prompts were read as those of one")
