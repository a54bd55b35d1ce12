"""Prompts that repeat, and prompts that occur in an evaluation set."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from transformers import PreTrainedTokenizerFast

from rlhf_flow.prompts.epochs import PromptSet
from rlhf_flow.prompts.jsonl import Jsonl
from rlhf_flow.prompts.limits import Limits, Overlap
from tests.prompts.conftest import Write

LONG = "a farmer has seventeen sheep and all but nine of them run away in the night"
ASKED = ["Who wrote Hamlet?", "  who wrote HAMLET? ", "Who wrote Macbeth?", f"Listen: {LONG}. How many are left?", "x"]


@pytest.fixture
def path(write: Write) -> str:
    return write([{"prompt": text} for text in ASKED])


def opened(path: str, tokenizer: PreTrainedTokenizerFast, **limits: object) -> PromptSet:
    return Jsonl(path=path, batch=1, held_out=0, limits=Limits(**limits)).open(tokenizer, 0)  # type: ignore[arg-type]


def texts(prompts: PromptSet) -> list[str]:
    return [prompt.messages[0].content for prompt in prompts.training]


def test_repeats_are_dropped_and_counted(path: str, tokenizer: PreTrainedTokenizerFast) -> None:
    assert texts(opened(path, tokenizer)) == ASKED
    once = opened(path, tokenizer, repeats=1)
    assert texts(once) == [ASKED[0], *ASKED[2:]]
    assert (once.counts["rows"], once.counts["repeats_dropped"], once.counts["training"]) == (5, 1, 4)
    assert "1 repeats dropped" in once.summary


EVALUATION: dict[str, list[object]] = {
    "alpaca_eval.json": [{"instruction": "WHO wrote Hamlet?", "output": LONG}],  # an output is no prompt
    "mt_bench.jsonl": [{"turns": ["Hello", LONG.upper() + "!"]}],
    "arena.jsonl": [{"messages": [{"role": "user", "content": "Who wrote Macbeth?"}]}],
}
FOUND = {"alpaca_eval.json": [0, 1], "mt_bench.jsonl": [3], "arena.jsonl": [2]}


@pytest.mark.parametrize("name", EVALUATION)
def test_prompts_of_an_evaluation_set_are_dropped(
    name: str, path: str, tmp_path: Path, tokenizer: PreTrainedTokenizerFast
) -> None:
    rows = EVALUATION[name]
    file = tmp_path / name
    file.write_text(json.dumps(rows) if name.endswith("json") else "\n".join(json.dumps(row) for row in rows))
    files = {"mine": str(file)}
    left = opened(path, tokenizer, overlap=Overlap(files=files, action="drop"))
    assert texts(left) == [text for at, text in enumerate(ASKED) if at not in FOUND[name]]
    counted = opened(path, tokenizer, overlap=Overlap(files=files, action="count"))
    assert texts(counted) == ASKED
    assert left.counts["in_mine"] == counted.counts["in_mine"] == len(FOUND[name])
    with pytest.raises(ValueError, match=r"prompts\.limits\.overlap\.files\.mine=.*: \d of 5 prompts occur.*Fix: "):
        opened(path, tokenizer, overlap=Overlap(files=files))


def test_a_set_without_such_columns_and_wrong_values_are_refused(
    path: str, write: Write, tokenizer: PreTrainedTokenizerFast
) -> None:
    odd = write([{"query": "Who?"}], "odd.jsonl")
    with pytest.raises(ValueError, match=r"odd\.jsonl, line 1: no text .* there are query\. Fix: prompts\.limits"):
        opened(path, tokenizer, overlap=Overlap(files={"odd": odd}))
    assert "1 in odd" not in opened(path, tokenizer, overlap=Overlap(files={"odd": odd}, columns=["query"])).summary
    with pytest.raises(ValueError, match=r"overlap\.action=warn: must be one of refuse, drop, count"):
        Overlap(action="warn")
    with pytest.raises(ValueError, match=r"overlap\.words=0: must be >= 1"):
        Overlap(words=0)
    with pytest.raises(ValueError, match=r"prompts\.limits\.repeats=0: must be > 0"):
        Limits(repeats=0)
