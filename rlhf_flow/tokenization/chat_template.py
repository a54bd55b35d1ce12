"""Messages as tokens, in the tokenizer's chat template or plain, with exactly one BOS.

The prompts of the policy and the inputs of scorers use the same functions.
"""

from __future__ import annotations

import datetime
import json
import re
from collections.abc import Sequence
from dataclasses import dataclass, field, fields, is_dataclass, replace
from difflib import get_close_matches
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from rlhf_flow.system.hub import check_model
from rlhf_flow.types import Message

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

Part = TypeVar("Part")
FORMATS = ("chat", "plain")
DIRECTIVES = ("%-d", "%-m", "%-j", "%-y", *(f"%{letter}" for letter in "aAbBdmyYjUWwGuVeDFxXcHIpMSfTRzZ"))  # strftime's


@dataclass(frozen=True)
class ChatTemplate:
    """Which chat template of a tokenizer is used, with which arguments and date."""

    name: str | None = None  # if the tokenizer has several; null: its only one, or the one called default
    kwargs: dict[str, Any] = field(default_factory=dict)  # arguments of the template, such as enable_thinking
    file: str | None = None  # a Jinja file, in place of the tokenizer's templates; it is saved with what is trained
    date: str | None = None  # YYYY-MM-DD, for templates that write the date; null: the day of the run's first start

    def __post_init__(self) -> None:
        if self.date is not None:
            try:
                datetime.date.fromisoformat(self.date)
            except ValueError:
                raise ValueError(
                    f"chat_template.date={self.date}: not a date. Fix: write it as 2026-01-31, or leave it out."
                ) from None
        if self.file is not None and self.name is not None:
            raise ValueError("chat_template.name and chat_template.file are alternatives. Fix: leave one out.")

    def put_into(self, tokenizer: PreTrainedTokenizerBase, *, key: str = "chat_template") -> None:
        """Replace the tokenizer's templates by the file, if one is named. Raises ValueError if it cannot be read."""
        if self.file is None:
            return
        try:
            tokenizer.chat_template = Path(self.file).read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError) as error:
            raise ValueError(
                f"{key}.file={self.file}: {error}. Fix: name a text file with a Jinja template."
            ) from error


@dataclass(frozen=True)
class Templated:
    """A part that renders conversations in a chat template."""

    chat_template: ChatTemplate = field(default_factory=ChatTemplate, kw_only=True)  # of its tokenizer


def dated(part: Part, date: str) -> Part:
    """The part of a configuration with the date set in every chat template that has none."""
    changed: Any = part
    if isinstance(part, ChatTemplate):
        changed = replace(part, date=part.date or date)
    elif isinstance(part, list):
        changed = [dated(each, date) for each in part]
    elif is_dataclass(part) and not isinstance(part, type):
        inner = {one.name: getattr(part, one.name) for one in fields(part)}
        new = {name: dated(value, date) for name, value in inner.items()}
        if new != inner:
            changed = replace(part, **new)
    return changed  # type: ignore[no-any-return]  # same type as `part`


def today() -> str:
    return datetime.date.today().isoformat()


def load_tokenizer(
    path: str, *, template: ChatTemplate, key: str, revision: str | None = None, trust_remote_code: bool = False
) -> PreTrainedTokenizerBase:
    """The tokenizer of a checkpoint with the chosen chat template. `key`: configuration key of the checkpoint.

    Raises ValueError if the tokenizer does not load or lacks the template.
    """
    from transformers import AutoTokenizer

    check_model(key, path)
    try:
        tokenizer = AutoTokenizer.from_pretrained(path, revision=revision, trust_remote_code=trust_remote_code)
    except Exception as error:  # corrupt files raise any exception
        message = " ".join(str(error).split()) or type(error).__name__
        raise ValueError(
            f"{key}={path}: its tokenizer does not load ({message}). Fix: fetch the checkpoint again, or save the "
            "tokenizer that the model was trained with into the same folder."
        ) from error
    key = f"{key.removesuffix('path')}chat_template"
    template.put_into(tokenizer, key=key)
    return fixed(tokenizer, template, key=key)


def fixed(tokenizer: PreTrainedTokenizerBase, template: ChatTemplate, *, key: str) -> PreTrainedTokenizerBase:
    """The tokenizer with only the chosen chat template, which has its arguments and date filled in.

    So rendering gives the same text on any day. Raises ValueError if the tokenizer has no such template, or if the
    template has no such argument. `key`: configuration key of `template`.
    """
    text = tokenizer.chat_template
    if isinstance(text, dict):
        name = template.name or "default"
        if name not in text:
            known = ", ".join(sorted(text))
            raise ValueError(
                f"{key}.name={template.name or 'null'}: {tokenizer.name_or_path!r} has several chat templates, and "
                f"none is called {name!r}. Fix: {key}.name={sorted(text)[0]}, of {known}."
            )
        text = text[name]
    elif template.name is not None:
        raise ValueError(
            f"{key}.name={template.name}: {tokenizer.name_or_path!r} has "
            f"{'no chat template' if text is None else 'one chat template, which has no name'}. Fix: leave it out."
        )
    if text is None:
        if template.kwargs:
            raise ValueError(f"{key}.kwargs: {tokenizer.name_or_path!r} has no chat template. Fix: leave it out.")
        return tokenizer
    words = set(re.findall(r"\w+", text))
    for name in template.kwargs:
        if name not in words:
            near = get_close_matches(name, words, n=1, cutoff=0.7)
            raise ValueError(
                f"{key}.kwargs.{name}: the chat template of {tokenizer.name_or_path!r} reads no argument of that name. "
                f"Fix: {f'{key}.kwargs.{near[0]}=...' if near else 'leave it out'}."
            )
    text = "".join(f"{{% set {name} = {_literal(value)} %}}\n" for name, value in template.kwargs.items()) + text
    if "strftime_now" in words:  # transformers uses the present day
        text = _calendar(datetime.date.fromisoformat(template.date or today())) + text
    tokenizer.chat_template = text
    return tokenizer


def require_template(tokenizer: PreTrainedTokenizerBase, key: str) -> None:
    """Raise ValueError if the tokenizer has no chat template. `key`: configuration key of the format."""
    if tokenizer.chat_template is None:
        slot = key.removesuffix(".format").replace("prompts", "model")
        raise ValueError(
            f"{key}=chat needs a tokenizer with a chat template, and that of {tokenizer.name_or_path!r} has none. "
            f"Fix: {slot}.chat_template.file=FILE with a Jinja template, or {key}=plain."
        )


def chat_text(tokenizer: PreTrainedTokenizerBase, messages: Sequence[Message], *, reply: bool) -> str:
    """The chat in the tokenizer's template; with `reply` it ends with the generation prompt.

    If the template has no system role, the system message is prepended to the first user message with a blank line,
    as Gemma 3 does. Raises ValueError if the template rejects the messages.
    """
    from jinja2.exceptions import TemplateError

    if messages and messages[0].role == "system" and not takes_system(tokenizer):
        messages = _without_system(messages)
    chat = [{"role": message.role, "content": message.content} for message in messages]
    try:
        return str(tokenizer.apply_chat_template(chat, tokenize=False, add_generation_prompt=reply))
    except TemplateError as error:
        raise ValueError(f"the chat template rejects these messages: {error}") from error


def takes_system(tokenizer: PreTrainedTokenizerBase) -> bool:
    """Whether the chat template renders system messages: some raise an error, some ignore them."""
    from jinja2.exceptions import TemplateError

    probe = [{"role": "system", "content": "qxj"}, {"role": "user", "content": "a"}]
    try:
        return "qxj" in str(tokenizer.apply_chat_template(probe, tokenize=False))
    except TemplateError:
        return False


def chat_tokens(tokenizer: PreTrainedTokenizerBase, messages: Sequence[Message], *, reply: bool) -> list[int]:
    """The tokens of `chat_text`, with one BOS if the template or the tokenizer adds it."""
    (tokens,) = encode_chats(tokenizer, [chat_text(tokenizer, messages, reply=reply)])
    return tokens


def encode_chats(tokenizer: PreTrainedTokenizerBase, texts: list[str]) -> list[list[int]]:
    """The tokens of rendered chats, each with one BOS if it begins with it or the tokenizer adds it."""
    always, bos = adds_bos(tokenizer), tokenizer.bos_token_id
    rows = tokenizer(texts, add_special_tokens=False)["input_ids"] if texts else []
    return [one_bos(tokenizer, tokens, wanted=always or tokens[:1] == [bos]) for tokens in rows]


def plain_tokens(tokenizer: PreTrainedTokenizerBase, text: str) -> list[int]:
    """The text without a template, after BOS if the tokenizer has one."""
    return one_bos(tokenizer, encode(tokenizer, text), wanted=True)


def plain_text(messages: Sequence[Message], answer: str) -> str:
    """The input of a scorer without a chat template: all texts, separated by blank lines."""
    return "\n\n".join([*(message.content for message in messages), answer])


def encode_texts(tokenizer: PreTrainedTokenizerBase, texts: list[str]) -> list[list[int]]:
    """The tokens of texts, with the tokenizer's special tokens and at most one BOS."""
    wanted = adds_bos(tokenizer)
    rows = tokenizer(texts)["input_ids"] if texts else []
    return [one_bos(tokenizer, tokens, wanted=wanted) for tokens in rows]


def encode(tokenizer: PreTrainedTokenizerBase, text: str) -> list[int]:
    return list(tokenizer(text, add_special_tokens=False)["input_ids"])


def adds_bos(tokenizer: PreTrainedTokenizerBase) -> bool:
    """Whether the tokenizer's encoding of a text begins with BOS."""
    first = list(tokenizer("a")["input_ids"])[:1]
    return tokenizer.bos_token_id is not None and first == [tokenizer.bos_token_id]


def one_bos(tokenizer: PreTrainedTokenizerBase, tokens: list[int], *, wanted: bool) -> list[int]:
    """`tokens` with exactly one BOS at the beginning if `wanted`, otherwise none."""
    bos = tokenizer.bos_token_id
    if bos is None:
        return tokens
    start = next((at for at, token in enumerate(tokens) if token != bos), len(tokens))
    return [bos] * wanted + tokens[start:]


def _without_system(messages: Sequence[Message]) -> Sequence[Message]:
    system, *rest = messages
    if not rest or rest[0].role != "user":
        return messages
    return [Message("user", f"{system.content}\n\n{rest[0].content}"), *rest[1:]]


def _literal(value: object) -> str:
    """A value in Jinja: JSON, except for null."""
    if isinstance(value, dict):
        return "{" + ", ".join(f"{_literal(key)}: {_literal(item)}" for key, item in value.items()) + "}"
    if isinstance(value, list | tuple):
        return "[" + ", ".join(map(_literal, value)) + "]"
    return "none" if value is None else json.dumps(value, ensure_ascii=False)


def _calendar(day: datetime.date) -> str:
    """A macro that shadows transformers' `strftime_now`: directives take their values at midnight of `day`."""
    then = datetime.datetime.combine(day, datetime.time())
    replaced = "".join(f".replace({_literal(each)}, {_literal(then.strftime(each))})" for each in DIRECTIVES)
    return f"{{% macro strftime_now(format) %}}{{{{ format{replaced} }}}}{{% endmacro %}}\n"
