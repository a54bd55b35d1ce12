"""Which tokens end an answer, wherever a checkpoint names them; and how answers of a data set end."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from transformers import PreTrainedTokenizerFast

from rlhf_flow.cli.main import main
from rlhf_flow.learner.readout import tail_of
from rlhf_flow.prompts import PARTS
from rlhf_flow.tokenization.end_tokens import end_of_answer, end_tokens, named_ends, turn_end
from tests.support import tiny
from tests.support.tokenizer import tokenizer

CHATML = "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}"
CHATML += "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"


def chatml(**changes: Any) -> PreTrainedTokenizerFast:
    """A tokenizer whose turns end with <|im_end|>, and whose EOS is </s>."""
    words = tokenizer(template=CHATML)
    words.add_special_tokens({"additional_special_tokens": ["<|im_start|>", "<|im_end|>"]})
    for name, value in changes.items():
        setattr(words, name, value)
    return words


def checkpoint(
    folder: Path, words: PreTrainedTokenizerFast, *, config: object = None, generation: object = None
) -> str:
    """A folder with what names end tokens; nothing else of a checkpoint."""
    folder.mkdir()
    for name, ends in (("config.json", config), ("generation_config.json", generation)):
        if ends is not None:
            (folder / name).write_text(json.dumps({"eos_token_id": ends} if not isinstance(ends, dict) else ends))
    return str(folder)


def test_each_place_that_names_an_end_token_counts(tmp_path: Path) -> None:
    words = chatml()
    end = words.convert_tokens_to_ids("<|im_end|>")
    start = words.convert_tokens_to_ids("<|im_start|>")
    path = checkpoint(tmp_path / "model", words, config=[start], generation=[end, 7])
    assert named_ends(path, words) == {
        2: ["tokenizer"],
        7: ["generation_config.json"],
        start: ["config.json"],
        end: ["generation_config.json", "chat template"],
    }


@pytest.mark.parametrize("config", [{"eos_token_id": [2, 0]}, {"text_config": {"eos_token_id": 0}}])
def test_end_tokens_that_only_the_config_names(tmp_path: Path, config: dict[str, object]) -> None:
    """As Llama 3 lists them; nested as in multimodal models."""
    assert end_tokens(checkpoint(tmp_path / "model", tokenizer(), config=config), tokenizer()) == [0, 2]


def test_the_default_of_an_architecture_that_is_an_ordinary_token_ends_nothing(tmp_path: Path) -> None:
    assert end_tokens(checkpoint(tmp_path / "model", tokenizer(), config=50), tokenizer()) == [2]


@pytest.mark.parametrize(
    ("template", "end"),
    [
        (CHATML, "<|im_end|>"),
        ("{% for m in messages %}{{ m.content }} {{ eos_token }}{% endfor %}", "</s>"),  # a space before it, as Llama 2
        ("{% for m in messages %}<|im_start|>{{ m.content }}{% endfor %}", None),
        ("{% for m in messages %}{{ m.role }}: {{ m.content }}\nEnd.\n{% endfor %}", None),  # text is no end token
        ("{{ raise_exception('tools only') }}", None),
        (None, None),
    ],
)
def test_the_token_that_ends_a_turn_in_the_template(template: str | None, end: str | None) -> None:
    words = chatml(chat_template=template)
    assert turn_end(words) == (None if end is None else words.convert_tokens_to_ids(end))


@pytest.mark.slow
def test_a_checkpoint_whose_answers_never_end_is_refused_before_the_run(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    model = tiny.policy(tmp_path / "model")
    words = tokenizer(template="{% for m in messages %}{{ m.content }}{% endfor %}")
    words.eos_token = None
    words.save_pretrained(model)
    (model / "generation_config.json").unlink()
    about = json.loads((model / "config.json").read_text())
    (model / "config.json").write_text(json.dumps({**about, "eos_token_id": None}))
    assert main(["run", *tiny.overrides(model, tiny.prompts(tmp_path / "prompts.jsonl"), tmp_path / "run")]) == 2
    assert "no response could end. Fix: set eos_token" in capsys.readouterr().err


def test_answers_of_a_data_set_end_as_the_policys_own(tmp_path: Path) -> None:
    words = chatml()
    end = words.convert_tokens_to_ids("<|im_end|>")
    file = tmp_path / "pairs.jsonl"
    file.write_text(json.dumps({"prompt": "Why?", "chosen": "So."}) + "\n")
    columns = {"candidates": {"good": "chosen"}}
    for format, wanted in (("chat", end), ("plain", words.eos_token_id)):
        from rlhf_flow.prompts.parse import Columns

        source = PARTS["jsonl"](path=str(file), batch=1, held_out=0, format=format, columns=Columns(**columns))
        (prompt,) = source.open(words, seed=0).batch(1)
        assert prompt.candidates["good"].tokens[-1] == wanted
        assert end_of_answer(words, chat=format == "chat") == wanted


def test_a_reward_model_reads_its_score_behind_the_token_that_ends_the_turn() -> None:
    words = chatml()
    assert words.decode(list(tail_of(words))) == "\n"


def test_answers_of_a_model_whose_config_alone_names_the_end_are_whole(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Their end came as the last of their tokens: none is cut."""
    from transformers import AutoTokenizer

    from rlhf_flow.engine import HuggingFace
    from rlhf_flow.specs import Model, Place
    from rlhf_flow.types import Policy, Prompt, SamplingParams
    from rlhf_flow.weights.fingerprint import checkpoint_fingerprint
    from rlhf_flow.weights.source import Checkpoint

    model = tiny.policy(tmp_path / "model")
    (model / "generation_config.json").unlink()
    words = AutoTokenizer.from_pretrained(model)
    ordinary = [words.convert_ids_to_tokens(token) for token in range(3, len(words))]
    words.add_special_tokens({"additional_special_tokens": ordinary})  # any token ends an answer
    words.save_pretrained(model)
    about = json.loads((model / "config.json").read_text())
    (model / "config.json").write_text(json.dumps({**about, "eos_token_id": list(range(len(words)))}))
    policy = Policy("policy", 0, checkpoint_fingerprint(model), Checkpoint(model))
    engine = HuggingFace().open(Model(str(model)), Place())
    drawn = engine.generate(
        [Prompt("q", (), (1, 5, 6))], policy, SamplingParams("policy", n=4, max_tokens=8), round=1, seed=0
    )
    assert [(len(one.tokens), one.truncated) for one in drawn.responses[0]] == [(1, False)] * 4
