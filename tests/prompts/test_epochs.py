"""Rounds: pure, every prompt once an epoch, and never twice in a round."""

from __future__ import annotations

from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rlhf_flow.prompts.epochs import PromptSet
from rlhf_flow.types import Message, Prompt


def dealt(count: int, size: int, seed: int = 0) -> PromptSet:
    prompts = tuple(Prompt(f"q{at}", (Message("user", str(at)),), tokens=(at,)) for at in range(count))
    return PromptSet(prompts, (), size=size, seed=seed, counts={})


@given(st.integers(1, 30), st.data(), st.integers(0, 5))
def test_every_prompt_comes_once_an_epoch_and_never_twice_in_a_round(
    count: int, data: st.DataObject, seed: int
) -> None:
    size = data.draw(st.integers(1, count))
    source = dealt(count, size, seed)
    batches = [source.batch(round) for round in range(1, 3 * count + 2)]
    for batch in batches:
        assert len({prompt.id for prompt in batch}) == len(batch) == size
    stream = [prompt.id for batch in batches for prompt in batch]
    for start in range(0, len(stream) - count + 1, count):
        assert set(Counter(stream[start : start + count]).values()) == {1}
        assert len(set(stream[start : start + count])) == count


@given(st.integers(1, 40), st.integers(1, 60), st.integers(0, 9))
def test_a_round_depends_on_its_number_and_the_seed_alone(count: int, round: int, seed: int) -> None:
    size = (count + 1) // 2
    later = dealt(count, size, seed)
    later.batch(round + 3)
    assert later.batch(round) == dealt(count, size, seed).batch(round)


def test_epochs_and_seeds_differ() -> None:
    source = dealt(50, 50)
    assert source.batch(1) != source.batch(2)
    assert source.batch(1) != dealt(50, 50, seed=1).batch(1)


def test_rounds_are_counted_from_one() -> None:
    with pytest.raises(ValueError, match="counted from 1, got 0"):
        dealt(3, 1).batch(0)


def test_the_identity_tells_data_apart() -> None:
    prompts = dealt(3, 1).training
    here = PromptSet(prompts, (), size=1, seed=0, counts={})
    assert here.sha256 == PromptSet(prompts, (), size=2, seed=5, counts={}).sha256
    moved = PromptSet(prompts[:2], prompts[2:], size=1, seed=0, counts={})
    fewer = PromptSet(prompts[:2], (), size=1, seed=0, counts={})
    assert len({here.sha256, moved.sha256, fewer.sha256}) == 3


@given(count=st.integers(1, 30), size=st.integers(1, 30), seed=st.integers(0, 5), round=st.integers(1, 9))
def test_the_pages_of_a_round_ask_every_prompt_once_and_change_no_round(
    count: int, size: int, seed: int, round: int
) -> None:
    size = min(size, count)
    source = dealt(count, size, seed)
    pages = [source.batch(round, page) for page in range(count // size + 2)]
    ids = [prompt.id for page in pages for prompt in page]
    assert len(ids) == len(set(ids)) == count
    assert pages[0] == source.batch(round) and pages[-1] == ()
