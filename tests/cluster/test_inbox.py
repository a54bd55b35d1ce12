"""Prompts reach an engine whatever the order of the calls that bring them."""

from __future__ import annotations

import itertools
from collections.abc import Sequence

import pytest

from rlhf_flow.cluster.inbox import Inbox
from rlhf_flow.types import Prompt

PROMPTS = [Prompt(f"p{number}", (), (1,)) for number in range(3)]
CALLS: tuple[Sequence[Prompt] | int, ...] = (PROMPTS[:2], PROMPTS[2:], 3)


@pytest.mark.parametrize("calls", itertools.permutations(CALLS))
def test_the_end_may_overtake_the_prompts(calls: tuple[Sequence[Prompt] | int, ...]) -> None:
    inbox, taken = Inbox(), list[Prompt]()
    for call in calls:
        inbox.put(call)
        taken += inbox(wait=False) or ()
    assert sorted(prompt.id for prompt in taken) == [prompt.id for prompt in PROMPTS]
    assert inbox(wait=True) is None


def test_an_engine_without_prompts_ends() -> None:
    inbox = Inbox()
    assert inbox(wait=False) == []
    inbox.put(0)
    assert inbox(wait=True) is None
