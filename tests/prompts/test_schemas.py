"""The layouts of public data sets are recognised, and one line says what was taken for what."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from transformers import PreTrainedTokenizerFast

from rlhf_flow.prompts.jsonl import Jsonl
from rlhf_flow.prompts.parse import Columns
from rlhf_flow.types import Prompt
from tests.prompts.conftest import Write

Row = dict[str, object]
PAIR = Columns(candidates={"first": "chosen", "second": "rejected"})  # as `train-reward` asks


def user(text: str) -> Row:
    return {"role": "user", "content": text}


def assistant(text: str) -> Row:
    return {"role": "assistant", "content": text}


CONVERSATION = [user("Hi"), assistant("Hello"), user("Why?")]
DIALOGUE = "\n\nHuman: Hi\n\nAssistant: Hello\n\nHuman: Why?\n\nAssistant:"
PAIRS: dict[str, tuple[list[Row], str]] = {  # schema -> rows that ask "Why?", and what the line says
    "columns": ([{"prompt": "Why?", "chosen": "Good", "rejected": "Bad"}], ""),
    "ultrafeedback": (
        [{"instruction": "Why?", "completions": [
            {"response": text, "fine-grained_score": score, "overall_score": 10.0}
            for text, score in (("Fair", 3.0), ("Good", 4.5), ("Bad", 1.0), ("Fair", 2.0))
        ]}],
        "instruction → prompt, completions → chosen (best rating), rejected (worst)",
    ),
    "ratings": ([{"instruction": "Why?", "generations": ["Bad", "Good"], "ratings": [1, 5]}], "generations → chosen"),
    "hh": (
        [{"chosen": "\n\nHuman: Why?\n\nAssistant: Good", "rejected": "\n\nHuman: Why?\n\nAssistant: Bad"}],
        "Human:/Assistant: turns → prompt, chosen, rejected",
    ),
    "helpsteer": (
        [{"prompt": "Why?", "response": "Bad", "helpfulness": 1, "verbosity": 2},
         {"prompt": "Why?", "response": "Good", "helpfulness": 4, "verbosity": 2}],
        "chosen (most helpful)",
    ),
    "helpsteer3": (
        [{"context": [user("Why?")], "response1": "Bad", "response2": "Good", "overall_preference": 2}],
        "overall_preference → chosen and rejected",
    ),
    "pku_saferlhf": (
        [{"prompt": "Why?", "response_0": "Bad", "response_1": "Good", "better_response_id": 1,
          "safer_response_id": 0}],
        "better_response_id",
    ),
    "nectar": (
        [{"prompt": "\n\nHuman: Why?\n\nAssistant: ", "answers": [
            {"answer": "Fair", "rank": 2.0}, {"answer": "Bad", "rank": 3.0}, {"answer": "Good", "rank": 1.0}
        ]}],
        "answers → chosen (best rank), rejected (worst)",
    ),
    "orca": ([{"system": "", "question": "Why?", "chosen": "Good", "rejected": "Bad"}], "question → prompt"),
    "implicit": (
        [{"chosen": [user("Why?"), assistant("Good")], "rejected": [user("Why?"), assistant("Bad")]}],
        "the conversation in chosen and rejected → prompt",
    ),
    "response_a_b": (
        [{"prompt": "Why?", "response_a": "Bad", "response_b": "Good", "prob_b": 0.75}],
        "response_a and response_b → chosen and rejected by prob_b or winner",
    ),
    "arena": (
        [{"conversation_a": [user("Why?"), assistant("Good")], "conversation_b": [user("Why?"), assistant("Bad")],
          "winner": "model_a"}],
        "winner → chosen and rejected",
    ),
    "sharegpt": (
        [{"conversations": [{"from": "human", "value": "Why?"}], "chosen": {"from": "gpt", "value": "Good"},
          "rejected": {"from": "gpt", "value": "Bad"}}],
        "conversations → prompt",
    ),
    "argilla": (
        [{"fields": {"prompt": "Why?", "response_a": "Bad", "response_b": "Good"}, "responses": {"preference": [
            {"value": "response_b", "user_id": "u1", "status": "submitted"}]}}],
        "most votes → chosen",
    ),
    "label_studio": (
        [{"data": {"prompt": "Why?", "answer1": "Bad", "answer2": "Good"}, "annotations": [
            {"completed_by": 3, "result": [
                {"type": "pairwise", "value": {"selected": "right"}, "to_name": "answer1,answer2"}]}]}],
        "most votes → chosen",
    ),
}  # fmt: skip


def opened(
    path: str, tokenizer: PreTrainedTokenizerFast, columns: Columns = PAIR, **keys: object
) -> tuple[Prompt, str]:
    source = Jsonl(path=path, columns=columns, batch=1, held_out=0, **keys).open(tokenizer, 0)
    (prompt,) = source.training
    return prompt, source.summary


def turns(prompt: Prompt) -> list[tuple[str, str]]:
    return [(message.role, message.content) for message in prompt.messages]


@pytest.mark.parametrize("schema", PAIRS)
@pytest.mark.parametrize("named", [False, True], ids=["auto", "named"])
def test_preferences_of_every_public_layout_become_a_better_and_a_worse_answer(
    schema: str, named: bool, write: Write, tokenizer: PreTrainedTokenizerFast
) -> None:
    rows, said = PAIRS[schema]
    prompt, summary = opened(write(rows), tokenizer, schema=schema if named else "auto")
    assert turns(prompt) == [("user", "Why?")]
    assert {name: candidate.text for name, candidate in prompt.candidates.items()} == {"first": "Good", "second": "Bad"}
    assert said in summary and "\n" not in summary
    assert summary.startswith(f"read as {schema} (") == bool(said)


@pytest.mark.parametrize(
    "row",
    [
        {"chosen": f"{DIALOGUE} Good", "rejected": f"{DIALOGUE} Bad"},
        {"chosen": [*CONVERSATION, assistant("Good")], "rejected": [*CONVERSATION, assistant("Bad")]},
        {"prompt": CONVERSATION, "chosen": [*CONVERSATION, assistant("Good")], "rejected": [assistant("Bad")]},
        {"prompt": DIALOGUE, "answers": [{"answer": "Good", "rank": 1}, {"answer": "Bad", "rank": 7}]},
    ],
    ids=["hh", "implicit", "columns", "nectar"],
)
def test_a_conversation_of_several_turns_is_the_prompt(
    row: Row, write: Write, tokenizer: PreTrainedTokenizerFast
) -> None:
    prompt, _ = opened(write([row]), tokenizer)
    assert turns(prompt) == [("user", "Hi"), ("assistant", "Hello"), ("user", "Why?")]
    assert [candidate.text for candidate in prompt.candidates.values()] == ["Good", "Bad"]


@pytest.mark.parametrize(
    ("row", "asked", "answer"),
    [
        ({"instruction": "Add.", "input": "1 and 2", "output": "3"}, [("user", "Add.\n\n1 and 2")], "3"),
        ({"instruction": "Sing.", "input": "", "output": "La"}, [("user", "Sing.")], "La"),
        ({"messages": [user("Why?"), assistant("So.")]}, [("user", "Why?")], "So."),
        ({"messages": [user("Why?")]}, [("user", "Why?")], None),
        ({"conversation_id": "c1", "conversation": [user("Why?"), assistant("So.")]}, [("user", "Why?")], "So."),
        (
            {"conversations": [{"from": "system", "value": "Be kind."}, {"from": "human", "value": "Why?"},
                               {"from": "gpt", "value": "So."}]},
            [("system", "Be kind."), ("user", "Why?")],
            "So.",
        ),
        ({"question": "Why?", "system": "Be kind."}, [("system", "Be kind."), ("user", "Why?")], None),
        ({"prompt": "Why?", "system": "Be kind."}, [("system", "Be kind."), ("user", "Why?")], None),
        (
            {"prompt": [{"role": "user", "content": [{"type": "text", "text": "Why?"}]}]},
            [("user", "Why?")],
            None,
        ),
    ],
)  # fmt: skip
def test_prompts_of_other_layouts_are_read_and_their_answer_is_chosen(
    row: Row, asked: list[tuple[str, str]], answer: str | None, write: Write, tokenizer: PreTrainedTokenizerFast
) -> None:
    prompt, summary = opened(write([row]), tokenizer, columns=Columns())
    assert turns(prompt) == asked
    assert prompt.meta.get("chosen") == answer
    assert ("system → system turn" in summary) == ("system" in row)


def test_a_column_system_stays_in_meta_if_the_columns_are_named(
    write: Write, tokenizer: PreTrainedTokenizerFast
) -> None:
    prompt, _ = opened(write([{"prompt": "Why?", "system": "linux"}]), tokenizer, Columns(), schema="columns")
    assert turns(prompt) == [("user", "Why?")] and prompt.meta["system"] == "linux"
    prompt, _ = opened(write([{"prompt": "Why?", "system": {"os": "linux"}}]), tokenizer, Columns())  # not a text
    assert turns(prompt) == [("user", "Why?")] and prompt.meta["system"] == {"os": "linux"}


def test_ratings_stay_for_the_judge_and_ties_are_counted(write: Write, tokenizer: PreTrainedTokenizerFast) -> None:
    def row(asked: str, *scores: float) -> Row:
        answers = [{"response": f"answer {k}", "overall_score": score} for k, score in enumerate(scores)]
        return {"instruction": asked, "completions": answers, "source": "web"}

    path = write([row("a", 1, 5), row("b", 3, 3)])
    source = Jsonl(path=path, columns=PAIR, batch=1, held_out=0).open(tokenizer, 0)
    (prompt,) = source.training
    assert prompt.meta == {"source": "web", "score_chosen": 5, "score_rejected": 1}
    assert (source.counts["rows"], source.counts["training"], source.counts["undecided_dropped"]) == (2, 1, 1)
    assert "1 undecided dropped" in source.summary
    assert Jsonl(path=path, batch=1, held_out=0).open(tokenizer, 0).counts["training"] == 2  # prompts need no pair


@pytest.mark.parametrize(
    ("rows", "said"),
    [
        ([{"prompt": "Why?", "chosen": [user("Who?"), assistant("a")], "rejected": "b"}],
         "line 1: column 'chosen' answers another conversation than the prompt: found str 'Who?', expected str 'Why?'"),
        ([{"chosen": [user("Why?"), assistant("a")], "rejected": [user("Who?"), assistant("b")]}],
         "line 1: column 'rejected' answers another conversation"),
        ([{"chosen": "\n\nHuman: Why?\n\nAssistant: a", "rejected": "\n\nHuman: Who?\n\nAssistant: b"}],
         "line 1: column 'rejected' answers another conversation"),
        ([{"conversations": [{"from": "tool", "value": "x"}]}], "`from` must be one of human"),
        ([{"prompt": "a", "response_a": "b", "response_b": "c", "winner": "nobody"}], "model_a, model_b or tie"),
        ([{"question": "a", "chosen": "b", "rejected": "c"}, {"ask": "d", "chosen": "e", "rejected": "f"}],
         "line 2: expected a column 'question', as the other rows have it"),
        ([{"text": "a"}], "the columns there are: text. Fix: name the right one with prompts.columns.prompt=…"),
    ],
)  # fmt: skip
def test_a_row_that_does_not_fit_its_layout_is_refused_with_a_way_out(
    rows: list[Row], said: str, write: Write, tokenizer: PreTrainedTokenizerFast
) -> None:
    with pytest.raises(ValueError) as refused:
        opened(write(rows), tokenizer)
    assert said in str(refused.value) and "Fix: " in str(refused.value)


def test_columns_by_other_names_are_named_by_keys(write: Write, tokenizer: PreTrainedTokenizerFast) -> None:
    columns = Columns(prompt="ask", candidates={"first": "win", "second": "lose"}, system="persona")
    prompt, _ = opened(write([{"ask": "Why?", "win": "a", "lose": "b", "persona": "Be kind."}]), tokenizer, columns)
    assert turns(prompt) == [("system", "Be kind."), ("user", "Why?")]
    assert [candidate.text for candidate in prompt.candidates.values()] == ["a", "b"]


def test_data_that_was_read_before_keeps_its_hash(write: Write, tokenizer: PreTrainedTokenizerFast) -> None:
    """The hashes are those of version 0.1, so that its runs go on."""
    rows = [{"prompt": f"Why {k}?", "chosen": f"a{k}", "rejected": f"b{k}", "note": k} for k in range(8)]
    path = write(rows)
    assert Jsonl(path=path, batch=1).open(tokenizer, 0).sha256 == PLAIN
    assert Jsonl(path=path, batch=1, columns=PAIR).open(tokenizer, 0).sha256 == PAIRED


PLAIN = "573830127d31dbe805a117856ab901adca903e5455289d6688c2488383795501"
PAIRED = "40ae2ce79afbfb6ac5f51df878bc3b6fba770eaaf60558780585a3b05fbf6dde"


@pytest.mark.parametrize("schema", ["ultrafeedback", "orca", "hh"])
def test_held_out_rows_may_have_a_layout_of_their_own(
    schema: str, write: Write, tokenizer: PreTrainedTokenizerFast
) -> None:
    path = write([{"prompt": "Who?", "chosen": "a", "rejected": "b"}])
    apart = write(PAIRS[schema][0], "apart.jsonl")
    source = Jsonl(path=path, held_out_path=apart, columns=PAIR, batch=1).open(tokenizer, 0)
    (prompt,) = source.held_out()
    assert {name: candidate.text for name, candidate in prompt.candidates.items()} == {"first": "Good", "second": "Bad"}


def test_a_list_of_objects_is_as_good_as_lines(tmp_path: Path, tokenizer: PreTrainedTokenizerFast) -> None:
    path = tmp_path / "pairs.json"
    path.write_text(json.dumps([{"prompt": "Why?", "chosen": "Good", "rejected": "Bad"}], indent=1))
    prompt, _ = opened(str(path), tokenizer)
    assert prompt.candidates["first"].text == "Good" and prompt.id == "row-1"
