from __future__ import annotations

import pytest

from rlhf_flow.sampler.draws import DrawsSampler
from rlhf_flow.sampler.source import Source
from rlhf_flow.types import Mixture, SamplingParams
from tests.support.echo import POLICIES, PROMPTS, Echo, ids

SAMPLER = DrawsSampler(
    [
        Source("own", n=2, temperature=0.7),
        Source("mixed", n=1, policy="opponent", weight=0.25),
        Source("teacher", n=1, policy="dataset", candidate="gold"),
        Source("reference", n=1, policy="reference"),
    ]
)


def test_each_draw_comes_from_its_own_source() -> None:
    engine = Echo()
    rollouts = SAMPLER.sample(engine, PROMPTS, POLICIES, round=4, seed=1)
    mixture = Mixture(POLICIES["opponent"], POLICIES["reference"], 0.25)
    assert engine.asked == [
        (POLICIES["policy"], SamplingParams("own", n=2, temperature=0.7)),
        (mixture, SamplingParams("mixed", n=1)),
        (POLICIES["reference"], SamplingParams("reference", n=1)),
    ]
    assert all(type(draw) is SamplingParams for _, draw in engine.asked)
    assert ids(rollouts)[1] == ["4/own/0/b", "4/own/1/b", "4/mixed/0/b", "4/teacher/0/b", "4/reference/0/b"]
    for group in rollouts.responses:
        assert [one.source for one in group] == ["policy", "policy", "mixture", "dataset", "reference"]


def test_it_says_what_it_draws() -> None:
    assert list(SAMPLER.drawn) == [f"sampler.draws.{at}" for at in range(4)]
    assert SAMPLER.drawn["sampler.draws.0"] == Source("own", n=2, temperature=0.7)
    assert SAMPLER.sources == {
        "own": "policy",
        "mixed": "mixture",
        "teacher": "dataset",
        "reference": "reference",
    }
    assert SAMPLER.roles == {"policy", "opponent", "reference"} and SAMPLER.needs_mixture
    assert DrawsSampler().roles == {"policy"} and not DrawsSampler().needs_mixture
    assert DrawsSampler([Source("d", n=1, policy="dataset", candidate="gold")]).roles == frozenset()


def test_names_are_checked_as_everywhere() -> None:
    with pytest.raises(ValueError, match=r"sampler\.draws must have different names, got x more than once"):
        DrawsSampler([Source("x"), Source("x", policy="reference")])
