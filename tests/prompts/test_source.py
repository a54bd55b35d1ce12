"""Held-out prompts, counts, and values that no source takes."""

from __future__ import annotations

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from transformers import PreTrainedTokenizerFast

from rlhf_flow.prompts import PARTS
from rlhf_flow.prompts.epochs import PromptSet
from rlhf_flow.prompts.jsonl import Jsonl
from rlhf_flow.prompts.mixture import MixedSource, Mixture
from rlhf_flow.prompts.parse import Columns
from rlhf_flow.system.errors import ConfigError
from tests.prompts.conftest import Write, numbered

NAMED = Columns(id="id")


@pytest.mark.parametrize("part", PARTS.values(), ids=PARTS)
@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("format", "html"),
        ("max_tokens", 0),
        ("too_long", "shorten"),
        ("batch", 0),
        ("held_out", -0.1),
        ("held_out", 1.5),
        ("held_out", -1),
    ],
)
def test_values_are_checked(part: type, key: str, value: object) -> None:
    with pytest.raises(ValueError, match=rf"prompts\.{key} must be .*, got '?{value}"):
        part(**({"sources": [MixedSource("one", "x")]} if part is Mixture else {"path": "x"}), **{key: value})


def test_a_plain_prompt_has_no_system_message() -> None:
    with pytest.raises(ValueError, match=r"prompts\.system must be left empty with prompts\.format=plain"):
        Jsonl(path="x", format="plain", system="be kind")


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=25, deadline=None)
@given(
    lengths=st.lists(st.integers(1, 60), min_size=4, max_size=30),
    held_out=st.one_of(st.floats(0, 0.9), st.integers(0, 3)),
    too_long=st.sampled_from(["cut", "drop"]),
)
def test_counts_add_up_and_sides_never_share_a_text(
    lengths: list[int], held_out: float, too_long: str, write: Write, tokenizer: PreTrainedTokenizerFast
) -> None:
    path = write([{"prompt": "x" * length} for length in lengths])
    spec = Jsonl(path=path, max_tokens=50, too_long=too_long, batch=1, held_out=held_out)
    try:
        opened = spec.open(tokenizer, 0)
    except ValueError as refused:
        assert "0 prompts are left" in str(refused) or "no prompt can be held out" in str(refused)
        return
    counts = opened.counts
    assert counts["rows"] == len(lengths)
    assert counts["rows"] == counts["training"] + counts["held_out"] + counts["too_long_dropped"]
    assert counts["training"] == len(opened.training) and counts["held_out"] == len(opened.held_out())
    assert not {p.messages for p in opened.training} & {p.messages for p in opened.held_out()}


def test_a_share_or_a_number_is_held_out_whatever_the_seed_and_the_order(
    write: Write, tokenizer: PreTrainedTokenizerFast
) -> None:
    rows = numbered(400)
    forth, back = write(rows), write(rows[::-1], "back.jsonl")

    def held_out(path: str, wanted: float, seed: int = 0) -> set[str]:
        opened = Jsonl(path=path, columns=NAMED, held_out=wanted).open(tokenizer, seed)
        return {prompt.id for prompt in opened.held_out()}

    share = held_out(forth, 0.2)
    assert 50 < len(share) < 110
    assert share == held_out(back, 0.2) == held_out(forth, 0.2, seed=9)
    assert len(held_out(forth, 32)) == 32
    assert held_out(forth, 0) == set()
    assert held_out(forth, 0.1) < share


def test_a_held_out_file_may_not_overlap(write: Write, tokenizer: PreTrainedTokenizerFast) -> None:
    path = write(numbered(5))

    def opened(row: dict[str, object]) -> PromptSet:
        other = write([row], "held_out.jsonl")
        return Jsonl(path=path, columns=NAMED, held_out_path=other, batch=5).open(tokenizer, 0)

    with pytest.raises(ValueError, match="held-out prompt 'q3' is also trained on: it has the same id"):
        opened({"id": "q3", "prompt": "new"})
    with pytest.raises(ValueError, match="'new' is also trained on: it has the same text as training prompt 'q3'"):
        opened({"id": "new", "prompt": "question number 3"})
    good = opened({"id": "new", "prompt": "new"})
    assert [prompt.id for prompt in good.held_out()] == ["new"]
    assert good.counts["training"] == 5 and good.counts["held_out"] == 1


def test_a_batch_larger_than_the_prompts_is_refused(write: Write, tokenizer: PreTrainedTokenizerFast) -> None:
    told = (
        r"prompts\.batch=4: 3 prompts are left for training \(3 rows, 3 training\)\. Fix: prompts\.batch=3, or use more"
    )
    with pytest.raises(ConfigError, match=told) as refused:
        Jsonl(path=write(numbered(3)), batch=4, held_out=0).open(tokenizer, 0)
    assert refused.value.keys == ("prompts.batch=3",)  # so that the command line prints the command that works


def test_repeated_texts_are_counted(write: Write, tokenizer: PreTrainedTokenizerFast) -> None:
    opened = Jsonl(path=write([{"prompt": "a"}, {"prompt": "a"}, {"prompt": "b"}]), batch=1, held_out=0)
    assert opened.open(tokenizer, 0).counts["repeated"] == 1
