"""Bad rows are told all at once, or dropped and counted by kind; and nothing vanishes without a word."""

from __future__ import annotations

import pytest
from transformers import PreTrainedTokenizerFast

from rlhf_flow.prompts.jsonl import Jsonl
from rlhf_flow.prompts.parse import Columns
from rlhf_flow.storage.data_origin import changed, origin
from tests.prompts.conftest import Write, numbered

PAIR = Columns(candidates={"first": "chosen", "second": "rejected"})


def test_all_bad_rows_are_told_at_once(write: Write, tokenizer: PreTrainedTokenizerFast) -> None:
    rows = [{"prompt": "" if k % 2 else f"why {k}?"} for k in range(100)]
    with pytest.raises(ValueError) as refused:
        Jsonl(path=write(rows), batch=1).open(tokenizer, 0)
    told = str(refused.value)
    assert told.startswith("50 of 100 rows cannot be prompts, the first 10:\n- ")
    assert all(f"line {2 * k}: column 'prompt' must be a text" in told for k in range(1, 11))
    assert "line 22" not in told and told.count("fill or remove the row") == 1
    assert "Or drop and count such rows: prompts.empty=drop." in told


def test_faults_of_several_kinds_are_told_together(write: Write, tokenizer: PreTrainedTokenizerFast) -> None:
    path = write(["no JSON", {"prompt": " "}, {"prompt": "x" * 99}, *numbered(3)])
    with pytest.raises(ValueError) as refused:
        Jsonl(path=path, max_tokens=60, batch=1).open(tokenizer, 0)
    for said in ("3 of 6 rows", "line 1", "line 2", "line 3", "prompts.empty=drop prompts.malformed=drop", "too_long"):
        assert said in str(refused.value)


def test_bad_rows_are_dropped_and_counted_by_kind(write: Write, tokenizer: PreTrainedTokenizerFast) -> None:
    bad = [
        "no JSON",
        '{"prompt": "half \\ud83d", "chosen": "a", "rejected": "b"}',
        {"prompt": "why?", "rejected": "b"},
        {"prompt": None, "chosen": "a", "rejected": "b"},
        {"prompt": "why?", "chosen": "a", "rejected": [{"role": "assistant", "content": ""}]},
        {"prompt": "x" * 99, "chosen": "a", "rejected": "b"},
    ]
    good = [{"prompt": f"why {k}?", "chosen": "a", "rejected": "b"} for k in range(4)]
    spec = Jsonl(
        path=write([*bad, *good]), columns=PAIR, empty="drop", malformed="drop", too_long="drop", max_tokens=60,
        batch=1, held_out=1,
    )  # fmt: skip
    source = spec.open(tokenizer, 0)
    dropped = {name: number for name, number in source.counts.items() if name.endswith("_dropped")}
    assert dropped == {"malformed_dropped": 3, "empty_dropped": 2, "too_long_dropped": 1}
    assert source.counts["rows"] == 10 == sum(dropped.values()) + source.counts["training"] + source.counts["held_out"]
    assert "3 malformed dropped" in source.summary and "2 empty dropped" in source.summary


def test_a_wrong_column_is_no_bad_row(write: Write, tokenizer: PreTrainedTokenizerFast) -> None:
    with pytest.raises(ValueError, match="line 1: expected a column 'ask'; the columns there are: id, prompt"):
        Jsonl(path=write(numbered(30)), columns=Columns(prompt="ask"), malformed="drop", batch=1).open(tokenizer, 0)


def test_equal_prompts_that_cannot_be_held_out_are_told(write: Write, tokenizer: PreTrainedTokenizerFast) -> None:
    path = write([{"prompt": "why?"}] * 24)
    with pytest.raises(ValueError, match=r"prompts\.held_out=4: no prompt can be held out.*Fix: prompts\.held_out=0"):
        Jsonl(path=path, held_out=4, batch=1).open(tokenizer, 0)
    twice = write([{"prompt": f"why {k}?"} for k in range(9)] * 2, "twice.jsonl")
    with pytest.raises(ValueError, match=r"Fix: prompts\.held_out=2 or more, prompts\.held_out=0"):
        Jsonl(path=twice, held_out=1, batch=1).open(tokenizer, 0)
    source = Jsonl(path=path, held_out=0.05, batch=1).open(tokenizer, 0)
    assert "nothing held out, so no round is evaluated" in source.summary
    assert "nothing held out" not in Jsonl(path=write(numbered(9)), held_out=2, batch=1).open(tokenizer, 0).summary


def test_what_changed_in_the_data_of_a_run_is_told(write: Write, tokenizer: PreTrainedTokenizerFast) -> None:
    def manifest(count: int, name: str) -> dict[str, object]:
        source = Jsonl(path=write(numbered(count), name), batch=1).open(tokenizer, 0)
        return {"prompts": source.counts, "data": source.origin}

    first = manifest(4, "a.jsonl")
    said = changed(first, manifest(5, "a.jsonl"))
    assert "4 rows then, 5 now" in said and "a.jsonl had 176 bytes of 20" in said and "the run began 20" in said
    assert "a.jsonl is not read now" in changed(first, manifest(4, "b.jsonl"))
    assert "did not change, so the tokenizer, chat template or version did" in changed(first, first)
    assert changed({"prompts": {"rows": 3}}, first).startswith("3 rows then, 4 now")  # of an older version's run
    assert origin([])["files"] == []
