"""Draws stand side by side, and every answer comes from the policy that plays the sampler."""

from __future__ import annotations

import pytest

from rlhf_flow.sampler import PARTS
from rlhf_flow.sampler.policy import PolicySampler
from rlhf_flow.types import SamplingParams
from tests.support.echo import POLICIES, PROMPTS, Echo, ids


def test_draws_are_concatenated_in_order() -> None:
    sampler = PolicySampler([SamplingParams("warm", n=2), SamplingParams("cold", n=1, temperature=0.5)])
    rollouts = sampler.sample(Echo(), PROMPTS, POLICIES, round=5, seed=9)
    assert rollouts.round == 5
    assert rollouts.prompts == tuple(PROMPTS)
    assert ids(rollouts) == [
        ["5/warm/0/a", "5/warm/1/a", "5/cold/0/a"],
        ["5/warm/0/b", "5/warm/1/b", "5/cold/0/b"],
    ]
    everyone = [response for group in rollouts.responses for response in group]
    assert {(r.policy, r.seed, r.source) for r in everyone} == {("hash of policy", 9, "policy")}


def test_it_says_what_it_draws() -> None:
    warm, cold = SamplingParams("warm", n=2), SamplingParams("cold", n=1)
    sampler = PolicySampler([warm, cold])
    assert sampler.drawn == {"sampler.draws.0": warm, "sampler.draws.1": cold}
    assert sampler.sources == {"warm": "policy", "cold": "policy"}
    assert sampler.roles == {"policy"} and not sampler.needs_mixture


def test_the_default_is_one_draw_of_two() -> None:
    assert [draw.n for draw in PARTS["policy"]().draws] == [2]


@pytest.mark.parametrize(
    ("draws", "says"),
    [
        ([], "at least one draw"),
        ([SamplingParams("x"), SamplingParams("y"), SamplingParams("x")], "different names, got x more than once"),
        ([SamplingParams("x/y")], "must not hold '/'"),
    ],
)
def test_draws_that_cannot_be_told_apart_are_refused(draws: list[SamplingParams], says: str) -> None:
    with pytest.raises(ValueError, match=says):
        PolicySampler(draws)
