"""Draws stand side by side, and every answer comes from the policy that plays the sampler."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest

from rlhf_flow.sampler import PARTS
from rlhf_flow.sampler.policy import PolicySampler
from rlhf_flow.types import Draw, Plan, Policy, Prompt, Response, Rollouts
from rlhf_flow.weights import Checkpoint

PLAN = Plan(round=5, init=4, sampler=3, anchors={})
PROMPTS = [Prompt("a", (), (0,)), Prompt("b", (), (0, 1))]
POLICIES = {role: Policy(role, 3, f"hash of {role}", Checkpoint(Path("x"))) for role in ("sampler", "reference")}


class Engine:
    """Answers with what it was asked."""

    def generate(self, prompts: Sequence[Prompt], policy: Policy, draw: Draw, *, round: int, seed: int) -> Rollouts:
        def response(prompt: Prompt, k: int) -> Response:
            name = f"{round}/{draw.name}/{k}/{prompt.id}"
            return Response(name, np.zeros(1, np.int32), "", None, False, draw, seed, policy.sha256)

        groups = tuple(tuple(response(prompt, k) for k in range(draw.n)) for prompt in prompts)
        return Rollouts(round, tuple(prompts), groups)

    def close(self) -> None: ...


def test_draws_are_concatenated_in_order() -> None:
    sampler = PolicySampler([Draw("warm", n=2), Draw("cold", n=1, temperature=0.5)])
    rollouts = sampler.sample(Engine(), PROMPTS, POLICIES, PLAN, seed=9)
    assert rollouts.round == 5
    assert rollouts.prompts == tuple(PROMPTS)
    assert [[response.id for response in group] for group in rollouts.responses] == [
        ["5/warm/0/a", "5/warm/1/a", "5/cold/0/a"],
        ["5/warm/0/b", "5/warm/1/b", "5/cold/0/b"],
    ]
    assert {(r.policy, r.seed) for group in rollouts.responses for r in group} == {("hash of sampler", 9)}


def test_the_default_is_one_draw_of_eight() -> None:
    assert [draw.n for draw in PARTS["policy"]().draws] == [8]


@pytest.mark.parametrize(
    ("draws", "says"),
    [
        ([], "at least one draw"),
        ([Draw("x"), Draw("y"), Draw("x")], "different names, got x more than once"),
        ([Draw("x/y")], "must not hold '/'"),
    ],
)
def test_draws_that_cannot_be_told_apart_are_refused(draws: list[Draw], says: str) -> None:
    with pytest.raises(ValueError, match=says):
        PolicySampler(draws)
