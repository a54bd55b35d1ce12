from __future__ import annotations

import pytest

from rlhf_flow.sampler.policy_and_reference import PolicyAndReference
from rlhf_flow.types import SamplingParams
from tests.support.echo import POLICIES, PROMPTS, Echo, ids


def test_the_policy_answers_first_and_the_reference_then() -> None:
    engine = Echo()
    rollouts = PolicyAndReference(policy=SamplingParams("mine", n=2)).sample(engine, PROMPTS, POLICIES, round=2, seed=0)
    assert [policy.name for policy, _ in engine.asked] == ["policy", "reference"], (
        "two changes of weights for all prompts"
    )
    assert ids(rollouts)[0] == ["2/mine/0/a", "2/mine/1/a", "2/reference/0/a"]
    for group in rollouts.responses:
        assert [one.source for one in group] == ["policy", "policy", "reference"]
        assert [one.policy for one in group] == ["hash of policy", "hash of policy", "hash of reference"]


def test_it_says_what_it_draws() -> None:
    sampler = PolicyAndReference()
    assert [(key, draw.name, draw.n) for key, draw in sampler.drawn.items()] == [
        ("sampler.policy", "policy", 1),
        ("sampler.reference", "reference", 1),
    ]
    assert sampler.sources == {"policy": "policy", "reference": "reference"}
    assert sampler.roles == {"policy", "reference"} and not sampler.needs_mixture


def test_one_name_for_both_is_refused() -> None:
    with pytest.raises(ValueError, match=r"sampler\.policy and sampler\.reference must have different names, got x"):
        PolicyAndReference(policy=SamplingParams("x"), reference=SamplingParams("x"))
