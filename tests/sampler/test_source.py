"""Answers that came with the prompts, and sources that make no sense."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pytest

from rlhf_flow.sampler.policy import PolicySampler
from rlhf_flow.sampler.source import Source
from rlhf_flow.seeds import derive
from rlhf_flow.types import Candidate, Prompt, Rollouts
from tests.support.echo import POLICIES, PROMPTS, Echo

GOLD = Source("teacher", n=1, policy="dataset", candidate="gold")


def test_a_candidate_is_an_answer_that_no_policy_drew() -> None:
    engine = Echo()
    ((answer,), (other,)) = next(GOLD.stream(engine, PROMPTS, POLICIES, round=4, seed=1)).responses
    assert engine.asked == []
    assert (answer.id, answer.text, answer.tokens.tolist()) == ("4/teacher/0/a", "yes", [7, 8, 2])
    assert answer.tokens.dtype == np.int32
    assert (answer.logps, answer.truncated, answer.policy, answer.source) == (None, False, "", "dataset")
    assert answer.seed == derive(1, 4, "a", "teacher") != other.seed
    assert answer.draw == GOLD.draw


def test_answers_are_of_the_round() -> None:
    assert next(GOLD.stream(Echo(), PROMPTS, POLICIES, round=4, seed=1)).round == 4
    assert PolicySampler().sample(Echo(), PROMPTS, POLICIES, round=4, seed=1).round == 4
    asked: list[int] = []

    class Streaming(Echo):
        def stream(self, *args: object, round: int, seed: int) -> Iterator[Rollouts]:
            asked.append(round)
            yield self.generate(*args, round=round, seed=seed)  # type: ignore[arg-type]

    PolicySampler().sample(Streaming(), PROMPTS, POLICIES, round=4, seed=1)
    assert asked == [4]


def test_the_whole_line_through_both_policies() -> None:
    assert [Source("x", weight=weight).weight for weight in (-1.0, 1.0)] == [-1.0, 1.0]


def test_a_prompt_without_the_candidate_is_named() -> None:
    bare = Prompt("c", (), (0,), candidates={"worse": Candidate("no", (9, 2)), "last": Candidate("x", (2,))})
    with pytest.raises(ValueError, match=r"prompt 'c' has no candidate 'gold' .* it has worse, last\. Name one that"):
        next(GOLD.stream(Echo(), [bare], POLICIES, round=1, seed=0))


def test_a_candidate_that_is_longer_than_an_answer_may_be_is_named() -> None:
    tight = Source("teacher", n=1, max_tokens=2, policy="dataset", candidate="gold")
    with pytest.raises(ValueError, match=r"prompt 'a': its candidate 'gold' has 3 tokens, .* max_tokens=2\. Raise it"):
        next(tight.stream(Echo(), PROMPTS, POLICIES, round=1, seed=0))


@pytest.mark.parametrize(
    ("fields", "says"),
    [
        ({"policy": ""}, "policy must be a role"),
        ({"policy": "mixture"}, ".* a mixture is policy=policy with a weight"),
        ({"weight": -1.5}, r"weight must be in \[-1, 1\], or null .* got -1\.5"),
        ({"weight": 1.5}, r"weight must be in \[-1, 1\], or null .* got 1\.5"),
        ({"policy": "reference", "weight": 0.5}, "weight must be null for policy=reference"),
        ({"policy": "dataset"}, "candidate must be the name of one for policy=dataset"),
        ({"candidate": "gold"}, "candidate must be null for policy=policy, as policy=dataset draws it, got 'gold'"),
        ({"policy": "dataset", "candidate": "gold", "n": 2}, "n must be 1 for a candidate"),
        ({"policy": "dataset", "candidate": "gold", "n": 1, "temperature": 0.7}, "decoding must be left out"),
        ({"temperature": -1.0}, "temperature must be >= 0"),
    ],
)
def test_sources_that_make_no_sense_are_refused(fields: dict[str, object], says: str) -> None:
    with pytest.raises(ValueError, match=f"draw 'x': {says}"):
        Source("x", **fields)


def test_a_candidate_that_is_as_long_as_an_answer_may_be_is_given() -> None:
    exact = Source("teacher", n=1, max_tokens=3, policy="dataset", candidate="gold")
    (((answer,),),) = (piece.responses for piece in exact.stream(Echo(), PROMPTS[:1], POLICIES, round=1, seed=0))
    assert len(answer.tokens) == 3
