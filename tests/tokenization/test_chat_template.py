"""Chat templates as models have them: dates, arguments, several of them, no system role, BOS more than once."""

from __future__ import annotations

import datetime
import json
from dataclasses import dataclass
from pathlib import Path

import pytest
from transformers import PreTrainedTokenizerFast

from rlhf_flow.cli.main import main
from rlhf_flow.config.compose import compose
from rlhf_flow.runner import prepare as build
from rlhf_flow.tokenization.chat_template import ChatTemplate, chat_text, chat_tokens, fixed, takes_system
from rlhf_flow.types import Message
from tests.support import tiny
from tests.support.tokenizer import CHAT, CHAT_WITH_BOS, tokenizer

ASKED = [Message("user", "Why?")]
DATED = (
    "{% if strftime_now is defined %}{% set day = strftime_now('%d %b %Y') %}{% else %}{% set day = '?' %}{% endif %}"
    "Today: {{ day }} {{ strftime_now('%B %-d, %Y') }}\n" + CHAT
)
THINKING = CHAT + "{% if enable_thinking is defined and not enable_thinking %}<think></think>{% endif %}"
GEMMA = (
    "{{ bos_token }}{% if messages[0].role == 'system' %}{{ raise_exception('System role not supported') }}{% endif %}"
    + CHAT
)
DEAF = "{% for m in messages if m.role != 'system' %}<|{{ m.role }}|>{{ m.content }}{% endfor %}"


@dataclass
class World:
    """A run of a tiny policy that is prepared, and not started."""

    root: Path

    @property
    def model(self) -> Path:
        return self.root / "model"

    @property
    def overrides(self) -> list[str]:
        return tiny.overrides(self.model, self.root / "prompts.jsonl", self.root / "run")

    def prepared(self, *more: str, run_dir: Path | None = None) -> str:
        """The hash of its prompts."""
        folder = [] if run_dir is None else [f"run_dir={run_dir}"]
        made = build.prepare(compose(*self.overrides, *more, *folder))
        made.ledger.close()
        return made.prompts.sha256


@pytest.fixture
def world(tmp_path: Path) -> World:
    tiny.policy(tmp_path / "model")
    tiny.prompts(tmp_path / "prompts.jsonl")
    return World(tmp_path)


def made(template: str | dict[str, str], choice: ChatTemplate | None = None) -> PreTrainedTokenizerFast:
    words = tokenizer(template=template)  # type: ignore[arg-type]  # of several templates a dict
    return fixed(words, choice or ChatTemplate(), key="model.chat_template")  # type: ignore[return-value]


def test_a_date_in_a_template_is_the_one_that_is_asked_for() -> None:
    """Not the present day: each directive of strftime, in whichever format the template asks."""
    text = chat_text(made(DATED, ChatTemplate(date="2024-07-06")), ASKED, reply=True)
    assert text.startswith("Today: 06 Jul 2024 July 6, 2024\n")
    today = datetime.date.today().strftime("%d %b %Y")
    assert chat_text(made(DATED), ASKED, reply=True).startswith(f"Today: {today}")


@pytest.mark.slow
def test_a_run_that_goes_on_on_another_day_has_the_prompts_of_its_first(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    (world.model / "chat_template.jinja").write_text(DATED)
    monkeypatch.setattr("rlhf_flow.runner.prepare.today", lambda: "2026-01-31")
    first = world.prepared()
    monkeypatch.setattr("rlhf_flow.runner.prepare.today", lambda: "2026-02-01")
    assert world.prepared() == first
    assert world.prepared(run_dir=world.root / "another") != first
    assert "2026-01-31" in (world.root / "run" / "config.yaml").read_text()


def test_arguments_reach_the_template() -> None:
    without = chat_text(made(THINKING), ASKED, reply=True)
    assert chat_text(made(THINKING, ChatTemplate(kwargs={"enable_thinking": False})), ASKED, reply=True) == (
        without + "<think></think>"
    )
    assert chat_text(made(THINKING, ChatTemplate(kwargs={"enable_thinking": True})), ASKED, reply=True) == without


@pytest.mark.parametrize("value", ['it\'s "so" \\ é 🙂', 3, 0.5, None, [1, {"a": True}]])
def test_an_argument_is_of_any_kind(value: object) -> None:
    words = made(
        "{% if x is not none %}{{ x if x is string else x | tojson }}{% endif %}", ChatTemplate(kwargs={"x": value})
    )
    told = chat_text(words, ASKED, reply=False)
    assert told == ("" if value is None else value if isinstance(value, str) else json.dumps(value))


def test_an_argument_that_the_template_does_not_read_is_refused() -> None:
    with pytest.raises(ValueError, match=r"reads no argument.*Fix: model.chat_template.kwargs.enable_thinking"):
        made(THINKING, ChatTemplate(kwargs={"enable_thinkin": False}))


def test_a_template_is_chosen_by_its_name() -> None:
    several = {"default": CHAT, "tool_use": "tools! " + CHAT}
    assert chat_text(made(several), ASKED, reply=True) == chat_text(made(CHAT), ASKED, reply=True)
    assert chat_text(made(several, ChatTemplate(name="tool_use")), ASKED, reply=True).startswith("tools! ")
    with pytest.raises(ValueError, match=r"none is called 'rag'.*default, tool_use"):
        made(several, ChatTemplate(name="rag"))
    with pytest.raises(ValueError, match=r"model.chat_template.name=a, of a, b"):
        made({"a": CHAT, "b": CHAT})
    with pytest.raises(ValueError, match="one chat template, which has no name"):
        made(CHAT, ChatTemplate(name="default"))


@pytest.mark.parametrize("template", [GEMMA, DEAF], ids=["raises an error", "leaves it out"])
def test_without_a_system_role_the_system_message_stands_before_the_first_question(template: str) -> None:
    words = made(template)
    asked = [Message("system", "Be brief."), *ASKED, Message("assistant", "So."), Message("user", "And?")]
    merged = [Message("user", "Be brief.\n\nWhy?"), *asked[2:]]
    assert not takes_system(words)
    assert takes_system(made(CHAT))
    assert chat_tokens(words, asked, reply=True) == chat_tokens(words, merged, reply=True)


@pytest.mark.parametrize("template", ["{{ bos_token }}" + CHAT_WITH_BOS, CHAT_WITH_BOS, CHAT])
def test_there_is_one_bos_however_often_the_template_writes_it(template: str) -> None:
    words = made(template)
    tokens = chat_tokens(words, ASKED, reply=True)
    assert tokens[0] == words.bos_token_id
    assert tokens.count(words.bos_token_id) == 1  # type: ignore[arg-type]  # it has one


@pytest.mark.slow
def test_keys_of_the_template_on_the_command_line(world: World, capsys: pytest.CaptureFixture[str]) -> None:
    """model.chat_template.kwargs.NAME=VALUE; a mistake is one paragraph."""
    (world.model / "chat_template.jinja").write_text(THINKING)
    thinking = world.prepared()
    assert world.prepared("model.chat_template.kwargs.enable_thinking=false", run_dir=world.root / "b") != thinking
    for key, told in (
        ("model.chat_template.kwargs.thinking_budget=3", "reads no argument"),
        ("model.chat_template.kwargs.enable_thinking=false", "model.chat_template.kwargs.enable_thinking was None"),
        ("model.chat_template.date=yesterday", "write it as 2026-01-31"),
        ("model.chat_template.name=rag", "one chat template, which has no name"),
    ):
        assert main(["run", *world.overrides, key]) == 2
        assert told in capsys.readouterr().err
