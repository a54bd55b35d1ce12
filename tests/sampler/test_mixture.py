from __future__ import annotations

import math

import pytest

from rlhf_flow.sampler.mixture import MixtureSampler
from rlhf_flow.types import Mixture
from tests.support.echo import POLICIES, PROMPTS, Echo, ids


@pytest.mark.parametrize("weight", [0.0, 0.125, 1.0])
def test_every_answer_is_of_the_mixture(weight: float) -> None:
    engine = Echo()
    rollouts = MixtureSampler(weight=weight).sample(engine, PROMPTS, POLICIES, round=2, seed=0)
    mixture = Mixture(POLICIES["policy"], POLICIES["reference"], weight)
    assert [policy for policy, _ in engine.asked] == [mixture]
    assert ids(rollouts) == [["2/mixture/0/a", "2/mixture/1/a"], ["2/mixture/0/b", "2/mixture/1/b"]]
    everyone = [one for group in rollouts.responses for one in group]
    assert {(one.source, one.policy) for one in everyone} == {("mixture", mixture.sha256)}


def test_it_says_what_it_draws() -> None:
    sampler = MixtureSampler()
    assert sampler.weight == 0.125
    assert sampler.drawn == {"sampler.draw": sampler.draw}
    assert sampler.sources == {"mixture": "mixture"}
    assert sampler.roles == {"policy", "reference"} and sampler.needs_mixture


@pytest.mark.parametrize("weight", [-0.1, 1.1, math.nan])
def test_a_weight_is_a_share(weight: float) -> None:
    with pytest.raises(ValueError, match=r"sampler\.weight must be in \[0, 1\], got"):
        MixtureSampler(weight=weight)


@pytest.mark.parametrize(("round", "weight"), [(1, 2 / 3), (2, 1 / 2), (8, 1 / 5)])
def test_a_weight_may_decay_with_the_rounds(round: int, weight: float) -> None:
    engine = Echo()
    MixtureSampler(decaying=True).sample(engine, PROMPTS, POLICIES, round=round, seed=0)
    assert [policy for policy, _ in engine.asked] == [Mixture(POLICIES["policy"], POLICIES["reference"], weight)]
