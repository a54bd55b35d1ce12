"""A chat on a pipe, as a terminal would send its lines and keys."""

from __future__ import annotations

import io
import json
import shlex
from pathlib import Path

import pytest

from rlhf_flow.chat import screen
from rlhf_flow.chat.chat_model import Decoding, open_chat_model
from rlhf_flow.cli.main import main
from rlhf_flow.config.compose import compose
from rlhf_flow.types import Message
from tests.support import tiny
from tests.support.tokenizer import tokenizer


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny.policy(tmp_path_factory.mktemp("chat") / "model")


def chat(monkeypatch: pytest.MonkeyPatch, lines: list[str], *arguments: object) -> int:
    monkeypatch.setattr("sys.stdin", io.StringIO("".join(f"{line}\n" for line in lines)))
    return main(["chat", *map(str, arguments), "--max-tokens", "6"])


def test_the_better_of_two_answers_is_a_row_that_training_reads(
    model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    labels = tmp_path / "labels of seed=1.jsonl"
    lines = ["Hello", "2", "And now?", "=", "/new", "A third", "", "/quit"]
    assert chat(monkeypatch, lines, model, model, "--labels", labels, "--system", "Be short.") == 0
    rows = [json.loads(line) for line in labels.read_text().splitlines()]
    first, *tie = rows
    assert [message["content"] for message in first["prompt"]] == ["Be short.", "Hello"]
    assert first["annotator"] == "chat"
    for row in tie:  # the conversation goes on with the better answer
        contents = [message["content"] for message in row["prompt"]]
        assert contents == ["Be short.", "Hello", first["chosen"], "And now?"]
    assert [row["chosen"] for row in tie] == [row["rejected"] for row in tie[::-1]]
    said = capsys.readouterr().out
    assert "2 more labels" in said
    keys = shlex.split(said.rpartition("rlhf-flow run ... ")[2])
    config = compose(*tiny.overrides(model, tmp_path / "prompts.jsonl", tmp_path / "run"), *keys)
    read = config.given.prompts.pool(tokenizer(), 0).batch(1)
    assert {prompt.candidates["chosen"].text for prompt in read} == {row["chosen"] for row in rows}
    assert labels.stat().st_mode & 0o077 == 0


def test_the_labels_of_a_run_lie_in_its_folder(
    old_run: Path, model: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert chat(monkeypatch, ["Hello", "1"], f"{old_run}@last", model) == 0
    (row,) = [json.loads(line) for line in (old_run / "chat.jsonl").read_text().splitlines()]
    assert (row["chosen_model"], row["rejected_model"]) == ("online_dpo@2", "model")
    said = capsys.readouterr().out
    assert "online_dpo@2" in said and f"rlhf-flow resume {old_run} rounds=..." in said


def test_an_answer_is_what_the_model_generates(model: Path) -> None:
    loaded = open_chat_model(str(model))
    messages = [Message("user", "Tell me about cats.")]
    *_, greedy = loaded.stream(messages, Decoding(max_tokens=8, temperature=0))
    chat = [{"role": "user", "content": "Tell me about cats."}]
    ids = loaded.tokenizer.apply_chat_template(chat, add_generation_prompt=True, return_tensors="pt")["input_ids"]
    ends = sorted(loaded.ends)
    expected = loaded.model.generate(ids, do_sample=False, max_new_tokens=8, eos_token_id=ends)[0, ids.shape[1] :]
    assert greedy == loaded.tokenizer.decode(expected, skip_special_tokens=True).removesuffix("�")
    sampled = [list(loaded.stream(messages, Decoding(max_tokens=8, seed=seed))) for seed in (1, 1, 2)]
    assert sampled[0] == sampled[1] != sampled[2]
    assert len(sampled[0]) > 1  # it grows


def test_a_chat_longer_than_the_model_reads_ends_with_a_fix(
    model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert chat(monkeypatch, ["a " * 300], model, "--labels", tmp_path / "labels.jsonl") == 2
    assert "the model reads 256" in capsys.readouterr().err


def test_without_a_label_nothing_is_written(model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert chat(monkeypatch, ["Hello", ""], model, model, "--labels", tmp_path / "labels.jsonl") == 0
    assert chat(monkeypatch, ["Hello"], model, "--labels", tmp_path / "labels.jsonl") == 0
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["nowhere/at/all"], "nowhere/at/all: no such folder. Fix: "),
        (["a", "b", "c"], "one or two models"),
        (["a", "--temperature", "-1"], "Fix: --temperature 1"),
        (["a", "--max-tokens", "0"], "Fix: --max-tokens 512"),
    ],
)
def test_a_mistake_is_one_sentence(arguments: list[str], told: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["chat", *arguments]) == 2
    assert told in capsys.readouterr().err


def test_ctrl_c_at_the_question_is_no_label_and_elsewhere_ends_the_chat(
    model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupted() -> str:
        raise KeyboardInterrupt

    monkeypatch.setattr(screen, "read_key", interrupted)
    assert chat(monkeypatch, ["Hello"], model, model, "--labels", tmp_path / "labels.jsonl") == 0
    assert not (tmp_path / "labels.jsonl").exists()
    monkeypatch.setattr("rlhf_flow.cli.chat.open_chat_model", lambda word: interrupted())
    assert chat(monkeypatch, [], model) == 130
