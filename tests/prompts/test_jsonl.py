"""Bad files are refused with file, line, expectation, finding and way out; good ones are read whole."""

from __future__ import annotations

from pathlib import Path

import pytest
from transformers import PreTrainedTokenizerFast

from rlhf_flow.prompts.jsonl import Jsonl
from rlhf_flow.prompts.parse import Columns
from tests.prompts.conftest import Write, numbered

NAMED = Columns(id="id")
SEVEN = numbered(6)


@pytest.mark.parametrize(
    ("seventh", "columns", "said"),
    [
        ('{"id": "q6", "prompt": ', NAMED, ["line 7", "expected one JSON object", "Fix: correct or remove the line"]),
        ("[1, 2]", NAMED, ["line 7", "expected a JSON object", "list [1, 2]"]),
        ({"id": "q6", "question": "why?"}, NAMED, ["line 7", "'prompt'", "id, question", "prompts.columns.prompt="]),
        ({"prompt": "why?"}, NAMED, ["line 7", "'id'", "prompts.columns.id="]),
        ({"id": "q6", "prompt": "  \n "}, NAMED, ["line 7", "not empty"]),
        ({"id": "q6", "prompt": 5}, NAMED, ["line 7", "a text or a list of {role, content}", "int 5"]),
        ({"id": "q6", "prompt": None}, NAMED, ["line 7", "NoneType None"]),
        ({"id": "q2", "prompt": "again"}, NAMED, ["line 7", "'q2'", "line 3"]),
        ({"id": None, "prompt": "why?"}, NAMED, ["line 7", "'id'", "NoneType None"]),
        ({"id": True, "prompt": "why?"}, NAMED, ["line 7", "'id'", "bool True"]),
        ({"id": "", "prompt": "why?"}, NAMED, ["line 7", "'id'"]),
        ('{"id": "q6", "prompt": "half \\ud83d"}', NAMED, ["line 7", "half a surrogate pair at character 6"]),
        ({"id": "q6", "prompt": "why?", "answer": 4}, Columns(answer="answer"), ["line 7", "'answer'", "int 4"]),
        ({"id": "q6", "prompt": []}, NAMED, ["line 7", "found no message"]),
        ({"id": "q6", "prompt": ["why?"]}, NAMED, ["line 7", "message 1", "role and content", "str 'why?'"]),
        (
            {"id": "q6", "prompt": [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]},
            NAMED,
            ["line 7", "last message", "must be from the user", "from the assistant"],
        ),
        ({"id": "q6", "prompt": [{"role": "human", "content": "a"}]}, NAMED, ["line 7", "role", "str 'human'"]),
        ({"id": "q6", "prompt": [{"role": "user", "content": ""}]}, NAMED, ["line 7", "content of message 1"]),
        (
            {"id": "q6", "prompt": [{"role": "user", "content": "a", "images": ["x"]}]},
            NAMED,
            ["line 7", "message 1", "images"],
        ),
        (
            {"id": "q6", "prompt": [{"role": "user", "content": "a"}, {"role": "system", "content": "b"}] * 2},
            NAMED,
            ["line 7"],
        ),
        ({"prompt": "why?"}, Columns(candidates={"good": "answer"}), ["line 7", "prompts.columns.candidates.good="]),
        (
            {"prompt": "why?", "answer": " "},
            Columns(candidates={"good": "answer"}),
            ["line 7", "'answer'", "not empty"],
        ),
        (
            {"prompt": "why?", "answer": [{"role": "user", "content": "a"}]},
            Columns(candidates={"good": "answer"}),
            ["line 7", "'answer'", "last message is from the assistant, found one from the user"],
        ),
        ({"prompt": "why?", "answer": []}, Columns(candidates={"good": "answer"}), ["'answer'", "found no message"]),
        ('{"prompt": [{"role": "user", "content": "a", "\\ud83d": 1}]}', Columns(), ["line 7", "'\\ud83d'"]),
        ('{"prompt": "why?", "source": "half \\ud83d"}', Columns(), ["line 7", "'source'", "half a surrogate pair"]),
        ('{"prompt": "why?", "source": {"a": ["\\ude00"]}}', Columns(), ["line 7", "'source'", "half a surrogate"]),
        ('{"prompt": "why?", "na\\ud83dme": 1}', Columns(), ["line 7", "name of column 'na\\ud83dme'", "surrogate"]),
        ('{"prompt": "why?", "answer": "\\ud83d"}', Columns(answer="answer"), ["line 7", "'answer'", "surrogate"]),
        ('{"prompt": "why?", "n": ' + "9" * 4301 + "}", Columns(), ["line 7", "a whole number is too long"]),
        ('{"prompt": "why?", "x": ' + "[" * 2000 + "]" * 2000 + "}", Columns(), ["line 7", "at most 64 levels"]),
        ('{"prompt": "why?", "x": ' + '{"y":' * 65 + "1" + "}" * 66, Columns(), ["line 7", "at most 64 levels"]),
    ],
)
def test_a_bad_row_is_refused_with_its_line(
    seventh: object, columns: Columns, said: list[str], write: Write, tokenizer: PreTrainedTokenizerFast
) -> None:
    answered = columns.answer or columns.candidates
    path = write([*({**row, "answer": "x"} if answered else row for row in SEVEN), seventh])
    with pytest.raises(ValueError) as refused:
        Jsonl(path=path, columns=columns, batch=1).open(tokenizer, 0)
    for part in [path, *said, "Fix: "]:
        assert part in str(refused.value)


@pytest.mark.parametrize(("content", "said"), [("", "empty file"), ("\n \n", "empty file")])
def test_an_empty_file_is_refused(content: str, said: str, tmp_path: Path, tokenizer: PreTrainedTokenizerFast) -> None:
    path = tmp_path / "prompts.jsonl"
    path.write_text(content)
    with pytest.raises(ValueError, match=said):
        Jsonl(path=str(path)).open(tokenizer, 0)


def test_a_missing_file_is_refused_by_its_key(tmp_path: Path, write: Write, tokenizer: PreTrainedTokenizerFast) -> None:
    with pytest.raises(ValueError, match=r"prompts\.path=.* is not a file"):
        Jsonl(path=str(tmp_path / "nowhere.jsonl")).open(tokenizer, 0)
    with pytest.raises(ValueError, match=r"prompts\.held_out_path=.* is not a file"):
        Jsonl(path=write(SEVEN), held_out_path=str(tmp_path / "nowhere")).open(tokenizer, 0)


def test_what_is_not_utf8_is_refused(tmp_path: Path, tokenizer: PreTrainedTokenizerFast) -> None:
    path = tmp_path / "prompts.jsonl"
    path.write_bytes(b'{"prompt": "fine"}\n{"prompt": "caf\xe9"}\n')
    with pytest.raises(ValueError, match="line 2: expected UTF-8, found byte 0xe9 at column 16"):
        Jsonl(path=str(path)).open(tokenizer, 0)


def test_a_byte_order_mark_and_blank_lines_are_passed_over_and_ids_count_lines(
    tmp_path: Path, tokenizer: PreTrainedTokenizerFast
) -> None:
    path = tmp_path / "prompts.jsonl"
    path.write_bytes('\ufeff{"prompt": "one\u2028line"}\r\n\n{"prompt": "two"}'.encode())
    opened = Jsonl(path=str(path), batch=2, held_out=0).open(tokenizer, 0)
    assert {prompt.id: prompt.messages[0].content for prompt in opened.batch(1)} == {
        "row-1": "one\u2028line",
        "row-3": "two",
    }


def test_other_columns_become_meta_and_what_is_no_json_is_counted(
    write: Write, tokenizer: PreTrainedTokenizerFast
) -> None:
    path = write(['{"prompt": "a", "gold": "b", "level": 3, "tags": ["x"], "score": NaN}'])
    opened = Jsonl(path=path, columns=Columns(answer="gold"), batch=1, held_out=0).open(tokenizer, 0)
    (prompt,) = opened.batch(1)
    assert prompt.answer == "b"
    assert prompt.meta == {"level": 3, "tags": ["x"]}
    assert opened.counts["meta_left_out"] == 1
    assert "1 meta left out (score)" in opened.summary


def test_whole_numbers_are_ids(write: Write, tokenizer: PreTrainedTokenizerFast) -> None:
    path = write([{"id": 7, "prompt": "a"}, {"id": "7", "prompt": "b"}])
    with pytest.raises(ValueError, match=r"line 2.*'7'.*line 1"):
        Jsonl(path=path, columns=NAMED, batch=1).open(tokenizer, 0)


def test_answers_that_come_with_the_prompts_are_tokenised_with_their_end(
    write: Write, tokenizer: PreTrainedTokenizerFast
) -> None:
    so = {"role": "assistant", "content": "since so"}
    rows = [
        {
            "prompt": f"why {k}?",
            "chosen": [{"role": "user", "content": f"why {k}?"}, so],
            "rejected": "no",
            "more": k,
        }
        for k in range(3)
    ]
    columns = Columns(candidates={"good": "chosen", "bad": "rejected"})
    source = Jsonl(path=write(rows), columns=columns, batch=2, held_out=1).open(tokenizer, 0)
    prompt = source.batch(1)[0]
    texts = {name: candidate.text for name, candidate in prompt.candidates.items()}
    assert texts == {"good": "since so", "bad": "no"}
    *tokens, last = prompt.candidates["good"].tokens
    assert (tokenizer.decode(tokens), last) == ("since so", tokenizer.eos_token_id)
    assert list(prompt.meta) == ["more"]
    lengths = {name: len(candidate.tokens) for name, candidate in prompt.candidates.items()}
    assert source.candidates == lengths  # the same answers everywhere
    assert source.sha256 != Jsonl(path=write(rows), batch=2, held_out=1).open(tokenizer, 0).sha256


def test_held_out_prompts_need_no_answers(tmp_path: Path, write: Write, tokenizer: PreTrainedTokenizerFast) -> None:
    (tmp_path / "apart.jsonl").write_text('{"prompt": "how?"}\n')
    columns = Columns(candidates={"good": "answer"})
    path = write([{"prompt": "why?", "answer": "so"}])
    source = Jsonl(path=path, held_out_path=str(tmp_path / "apart.jsonl"), columns=columns, batch=1).open(tokenizer, 0)
    assert [prompt.candidates for prompt in source.held_out()] == [{}]


def test_held_out_prompts_may_bring_answers(tmp_path: Path, write: Write, tokenizer: PreTrainedTokenizerFast) -> None:
    (tmp_path / "apart.jsonl").write_text('{"prompt": "how?", "answer": "like this, at length"}\n')
    columns = Columns(candidates={"good": "answer"})
    path = write([{"prompt": "why?", "answer": "so"}])
    source = Jsonl(path=path, held_out_path=str(tmp_path / "apart.jsonl"), columns=columns, batch=1).open(tokenizer, 0)
    (kept,) = source.held_out()
    assert kept.candidates["good"].text == "like this, at length"
    assert source.candidates == {"good": len(kept.candidates["good"].tokens)}  # the longest of either side
