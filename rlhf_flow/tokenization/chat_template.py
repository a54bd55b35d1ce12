"""Messages as tokens: in a tokenizer's own chat template or plain, and always with one BOS.

The policy's prompts and the scorers' views go through the same functions, so that neither can grow a second BOS.
"""

from __future__ import annotations

import datetime
import json
import re
from collections.abc import Sequence
from dataclasses import dataclass, field, fields, is_dataclass, replace
from difflib import get_close_matches
from typing import TYPE_CHECKING, Any, TypeVar

from rlhf_flow.types import Message

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

Part = TypeVar("Part")
FORMATS = ("chat", "plain")
DIRECTIVES = ("%-d", "%-m", "%-j", "%-y", *(f"%{letter}" for letter in "aAbBdmyYjUWwGuVeDFxXcHIpMSfTRzZ"))  # strftime's


@dataclass(frozen=True)
class ChatTemplate:
    """Which chat template of a tokenizer is used, with which arguments, and on which day."""

    name: str | None = None  # of several templates in one tokenizer; null: its only one, or the one called default
    kwargs: dict[str, Any] = field(default_factory=dict)  # arguments of the template, as enable_thinking
    date: str | None = None  # YYYY-MM-DD, of templates that write the date; null: the day of the run's first start

    def __post_init__(self) -> None:
        if self.date is not None:
            try:
                datetime.date.fromisoformat(self.date)
            except ValueError:
                raise ValueError(
                    f"chat_template.date={self.date} is not a day. Fix: write it as 2026-01-31, or leave it out."
                ) from None


@dataclass(frozen=True)
class Templated:
    """A part that renders conversations in a chat template."""

    chat_template: ChatTemplate = field(default_factory=ChatTemplate, kw_only=True)  # of its tokenizer


def dated(part: Part, date: str) -> Part:
    """The same part of a configuration, in which every chat template without a date has this one."""
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
    return changed  # type: ignore[no-any-return]  # of the type it was


def today() -> str:
    return datetime.date.today().isoformat()


def load_tokenizer(
    path: str, *, template: ChatTemplate, key: str, revision: str | None = None, trust_remote_code: bool = False
) -> PreTrainedTokenizerBase:
    """The tokenizer of a checkpoint, whose chat template is `template`. `key` is that of the checkpoint in messages.

    Raises ValueError if the checkpoint has no tokenizer that loads, or lacks the template.
    """
    from transformers import AutoTokenizer

    try:
        tokenizer = AutoTokenizer.from_pretrained(path, revision=revision, trust_remote_code=trust_remote_code)
    except Exception as error:  # broken files raise anything in the code of tokenizers
        said = " ".join(str(error).split()) or type(error).__name__
        raise ValueError(
            f"{key}={path}: its tokenizer does not load ({said}). Fix: fetch the checkpoint again, or save the "
            "tokenizer that the model was trained with into the same folder."
        ) from error
    return fixed(tokenizer, template, key=f"{key.removesuffix('path')}chat_template")


def fixed(tokenizer: PreTrainedTokenizerBase, template: ChatTemplate, *, key: str) -> PreTrainedTokenizerBase:
    """The tokenizer, whose only chat template is now the chosen one, its arguments and its date written into it.

    Rendering a chat later gives the same text, on any day. Raises ValueError for a name or an argument that
    the tokenizer's templates do not know; `key` is the configuration's.
    """
    there = tokenizer.chat_template
    if isinstance(there, dict):
        name = template.name or "default"
        if name not in there:
            known = ", ".join(sorted(there))
            raise ValueError(
                f"{key}.name={template.name or 'null'}: {tokenizer.name_or_path!r} has several chat templates, and "
                f"none is called {name!r}. Fix: {key}.name={sorted(there)[0]}, of {known}."
            )
        there = there[name]
    elif template.name is not None:
        raise ValueError(
            f"{key}.name={template.name}: {tokenizer.name_or_path!r} has "
            f"{'no chat template' if there is None else 'one chat template, which has no name'}. Fix: leave it out."
        )
    if there is None:
        if template.kwargs:
            raise ValueError(f"{key}.kwargs: {tokenizer.name_or_path!r} has no chat template. Fix: leave it out.")
        return tokenizer
    words = set(re.findall(r"\w+", there))
    for name in template.kwargs:
        if name not in words:
            near = get_close_matches(name, words, n=1, cutoff=0.7)
            raise ValueError(
                f"{key}.kwargs.{name}: the chat template of {tokenizer.name_or_path!r} reads no argument of that name. "
                f"Fix: {f'{key}.kwargs.{near[0]}=...' if near else 'leave it out'}."
            )
    text = "".join(f"{{% set {name} = {_literal(value)} %}}\n" for name, value in template.kwargs.items()) + there
    if "strftime_now" in words:  # transformers would give it the present day
        text = _calendar(datetime.date.fromisoformat(template.date or today())) + text
    tokenizer.chat_template = text
    return tokenizer


def require_template(tokenizer: PreTrainedTokenizerBase, key: str) -> None:
    """Raise ValueError if a chat is asked of a tokenizer without a chat template; `key` is the way out."""
    if tokenizer.chat_template is None:
        raise ValueError(
            f"{key}=chat needs a tokenizer with a chat template, and that of {tokenizer.name_or_path!r} has none. "
            f"Use {key}=plain, or save a chat template with the tokenizer."
        )


def chat_text(tokenizer: PreTrainedTokenizerBase, messages: Sequence[Message], *, reply: bool) -> str:
    """The chat in the tokenizer's template; with `reply` it ends where the assistant begins to speak.

    If the template knows no system role, the system message stands before the first user message, with a blank line
    between: so Gemma 3 and the authors of Gemma do it. Raises ValueError if the template refuses the messages.
    """
    from jinja2.exceptions import TemplateError

    if messages and messages[0].role == "system" and not takes_system(tokenizer):
        messages = _without_system(messages)
    chat = [{"role": message.role, "content": message.content} for message in messages]
    try:
        return str(tokenizer.apply_chat_template(chat, tokenize=False, add_generation_prompt=reply))
    except TemplateError as error:
        raise ValueError(f"the chat template refuses these messages: {error}") from error


def takes_system(tokenizer: PreTrainedTokenizerBase) -> bool:
    """Whether the chat template writes what a system message says: some raise an error, and some leave it out."""
    from jinja2.exceptions import TemplateError

    probe = [{"role": "system", "content": "qxj"}, {"role": "user", "content": "a"}]
    try:
        return "qxj" in str(tokenizer.apply_chat_template(probe, tokenize=False))
    except TemplateError:
        return False


def chat_tokens(tokenizer: PreTrainedTokenizerBase, messages: Sequence[Message], *, reply: bool) -> list[int]:
    """The tokens of `chat_text`: one BOS if the template or the tokenizer's own encoding writes it.

    Raises ValueError if the template refuses the messages.
    """
    tokens = encode(tokenizer, chat_text(tokenizer, messages, reply=reply))
    wanted = tokens[:1] == [tokenizer.bos_token_id] or adds_bos(tokenizer)
    return one_bos(tokenizer, tokens, wanted=wanted)


def plain_tokens(tokenizer: PreTrainedTokenizerBase, text: str) -> list[int]:
    """BOS, if the tokenizer has one, and the text; no template."""
    return one_bos(tokenizer, encode(tokenizer, text), wanted=True)


def plain_view(tokenizer: PreTrainedTokenizerBase, messages: Sequence[Message], answer: str) -> list[int]:
    """What a judge without a chat template reads: all texts with blank lines between, in its own special tokens."""
    text = "\n\n".join([*(message.content for message in messages), answer])
    return one_bos(tokenizer, list(tokenizer(text)["input_ids"]), wanted=adds_bos(tokenizer))


def encode(tokenizer: PreTrainedTokenizerBase, text: str) -> list[int]:
    return list(tokenizer(text, add_special_tokens=False)["input_ids"])


def adds_bos(tokenizer: PreTrainedTokenizerBase) -> bool:
    """Whether the tokenizer's own encoding of a text begins with BOS."""
    first = list(tokenizer("a")["input_ids"])[:1]
    return tokenizer.bos_token_id is not None and first == [tokenizer.bos_token_id]


def one_bos(tokenizer: PreTrainedTokenizerBase, tokens: list[int], *, wanted: bool) -> list[int]:
    """`tokens` with exactly one BOS in front if one is wanted, however many there were."""
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
    """A value in Jinja's words: JSON, but for null."""
    if isinstance(value, dict):
        return "{" + ", ".join(f"{_literal(key)}: {_literal(item)}" for key, item in value.items()) + "}"
    if isinstance(value, list | tuple):
        return "[" + ", ".join(map(_literal, value)) + "]"
    return "none" if value is None else json.dumps(value, ensure_ascii=False)


def _calendar(day: datetime.date) -> str:
    """A macro that hides transformers' `strftime_now`: every directive becomes its value at midnight of `day`."""
    then = datetime.datetime.combine(day, datetime.time())
    replaced = "".join(f".replace({_literal(each)}, {_literal(then.strftime(each))})" for each in DIRECTIVES)
    return f"{{% macro strftime_now(format) %}}{{{{ format{replaced} }}}}{{% endmacro %}}\n"
