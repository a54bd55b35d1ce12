"""Checks a row of a data set and turns it into a question: what a prompt needs before it is tokenised."""

from __future__ import annotations

import json
import reprlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

from rlhf_flow.prompts.bad_rows import BadRowError
from rlhf_flow.types import Message

ROLES = ("system", "user", "assistant")
REPR = reprlib.Repr()  # of values of any size
REPR.maxstring = REPR.maxother = REPR.maxlong = 80


@dataclass(frozen=True)
class Columns:
    """Which column is what. All others become `Prompt.meta`, where rules find them."""

    prompt: str = "prompt"  # a text (one user message), or a list of {role, content} that ends with the user
    id: str | None = None  # None: ids are made from row numbers, "row-17"
    answer: str | None = None  # a gold answer, for rules
    # name -> column: answers that samplers may draw (policy: dataset), each a text, or a chat ending with the assistant
    candidates: dict[str, str] = field(default_factory=dict)  # name -> column, of answers that came with the prompt
    revisions: bool = False  # add each candidate as a revision of each, "a|b": the prompt shows b and asks for better
    system: str | None = None  # a text, put before the chat; None: a column "system" if prompts.schema=auto finds one
    template: str | None = None  # a text with {prompt}, which takes the place of every user message
    every_turn: bool = False  # a prompt for each assistant turn of a conversation, instead of for the last one
    answer_tokens: int | None = None  # of a candidate; a longer one is dropped, or refused with prompts.too_long=refuse

    def __post_init__(self) -> None:
        if self.template is not None and "{prompt}" not in self.template:
            raise ValueError(
                f"prompts.columns.template={self.template!r}: it must hold {{prompt}}. "
                "Fix: write {prompt} where the user's text goes."
            )
        if self.answer_tokens is not None and self.answer_tokens < 1:
            raise ValueError(
                f"prompts.columns.answer_tokens must be >= 1, got {self.answer_tokens}. Fix: leave it out for no limit."
            )

    @property
    def named(self) -> Mapping[str, str]:
        """The columns that are named, by their keys."""
        single = {"prompt": self.prompt, "id": self.id, "answer": self.answer, "system": self.system}
        several = {f"candidates.{name}": column for name, column in self.candidates.items()}
        return {key: column for key, column in (single | several).items() if column is not None}


@dataclass(frozen=True)
class Row:
    """One row as it was read, with its place in the data set."""

    place: str  # "prompts.jsonl, line 17"
    number: int  # 1-based: the line of a text file, the row of a table
    values: Mapping[str, object]

    def error(self, problem: str, fix: str, *, kind: str = "malformed") -> BadRowError:
        return BadRowError(self.place, problem, fix, kind=kind)


Rows = Sequence[Row | BadRowError]


@dataclass(frozen=True)
class Question:
    """A checked row, not yet tokenised."""

    place: str
    id: str
    messages: tuple[Message, ...]
    answer: str | None
    candidates: Mapping[str, str]  # name -> text
    meta: Mapping[str, object]  # JSON values only
    left_out: tuple[str, ...]  # columns that are not JSON values and so cannot be in meta


def question(row: Row, columns: Columns, *, prefix: str = "row") -> Question:
    """Check a row. Raises BadRowError with the place, what was expected, what was found and the fix."""
    for name in row.values:
        valid(row, f"the name of column {name!r}", name)
    for key, name in columns.named.items():
        if name not in row.values:
            raise missing(row, key, name)
    messages = _messages(row, columns.prompt)
    if columns.system is not None:
        messages = _with_system(row, columns.system, messages)
    meta, left_out = _meta(row, columns)
    return Question(
        place=row.place,
        id=f"{prefix}-{row.number}" if columns.id is None else _id(row, columns.id),
        messages=messages if columns.template is None else _templated(columns.template, messages),
        answer=None if columns.answer is None else _answer(row, columns.answer),
        candidates={name: _candidate(row, column, messages) for name, column in columns.candidates.items()},
        meta=meta,
        left_out=left_out,
    )


def missing(row: Row, key: str, name: str) -> BadRowError:
    """The error for a row without a column that is named."""
    columns = ", ".join(row.values).encode(errors="backslashreplace").decode() or "none"
    fix = f"name the right one with prompts.columns.{key}=…, or the layout of the data set with prompts.schema=…"
    return row.error(f"expected a column {name!r}; the columns there are: {columns}", fix)


def shown(value: object) -> str:
    """A value as an error message shows it: its type and its first characters."""
    text = REPR.repr(value)
    return f"{type(value).__name__} {text if len(text) <= 60 else text[:57] + '…'}"


def valid(row: Row, where: str, text: str) -> str:
    """The text. Raises BadRowError for a lone surrogate, which JSON can write but no tokenizer or file can hold."""
    try:
        text.encode()
    except UnicodeEncodeError as error:
        problem = f"{where} must be valid Unicode, found half a surrogate pair at character {error.start + 1}"
        raise row.error(problem, "write the file anew from its source") from error
    return text


def _meta(row: Row, columns: Columns) -> tuple[dict[str, object], tuple[str, ...]]:
    """The columns that are not named, and the names of those that are not JSON values."""
    kept, left_out = {}, []
    for name, value in row.values.items():
        if name in columns.named.values():
            continue
        try:
            text = json.dumps(value, allow_nan=False, ensure_ascii=False)
        except (TypeError, ValueError):
            left_out.append(name)
            continue
        valid(row, f"column {name!r}", text)
        kept[name] = value
    return kept, tuple(left_out)


def _messages(row: Row, column: str) -> tuple[Message, ...]:
    value = row.values[column]
    if value is None or isinstance(value, str):
        return (Message("user", _text(row, f"column {column!r}", value)),)
    if not isinstance(value, list):
        raise row.error(
            f"column {column!r} must be a text or a list of {{role, content}}, found {shown(value)}",
            "correct the row, or name another column with prompts.columns.prompt=…",
        )
    messages = tuple(_message(row, f"message {at} of column {column!r}", one) for at, one in enumerate(value, start=1))
    if not messages or messages[-1].role != "user":
        found = f"one from the {messages[-1].role}" if messages else "no message"
        raise row.error(
            f"the last message of column {column!r} must be from the user, found {found}",
            "remove the answer at the end of the chat, or use prompts.schema=messages for a column `messages` that "
            "ends with an answer",
            kind="malformed" if messages else "empty",
        )
    if any(message.role == "system" for message in messages[1:]):
        problem = f"a system message may only come first in column {column!r}"
        raise row.error(problem, "move it to the front of the chat")
    return messages


def _with_system(row: Row, column: str, messages: tuple[Message, ...]) -> tuple[Message, ...]:
    """The messages behind the system text of the row, if it has one."""
    value = row.values[column]
    if value is None or (isinstance(value, str) and not value.strip()):
        return messages
    system = Message("system", _text(row, f"column {column!r}", value))
    if messages[0].role != "system":
        return (system, *messages)
    if messages[0] != system:
        raise row.error(
            f"the chat begins with another system message than column {column!r} has",
            "remove one of them, or use prompts.schema=columns to leave the column in meta",
        )
    return messages


def _templated(template: str, messages: tuple[Message, ...]) -> tuple[Message, ...]:
    return tuple(
        replace(one, content=template.replace("{prompt}", one.content)) if one.role == "user" else one
        for one in messages
    )


def _candidate(row: Row, column: str, prompt: tuple[Message, ...]) -> str:
    """The text. Of a chat: the last message, which must be the assistant's; the turns before it must be the prompt."""
    value = row.values[column]
    if not isinstance(value, list):
        return _text(row, f"column {column!r}", value)
    last = _message(row, f"the last message of column {column!r}", value[-1]) if value else None
    if last is None or last.role != "assistant":
        found = "no message" if last is None else f"one from the {last.role}"
        raise row.error(
            f"column {column!r} must be a text, or a chat whose last message is from the assistant, found {found}",
            "correct the row, or name another column",
            kind="empty" if last is None else "malformed",
        )
    before = [(one.get("role"), _joined(one.get("content"))) for one in value[:-1] if isinstance(one, dict)]
    if before and _turns(before) != _turns([(message.role, message.content) for message in prompt]):
        raise row.error(
            f"column {column!r} answers another conversation than the prompt: found {shown(before[-1][1])}, expected "
            f"{shown(prompt[-1].content)}",
            "correct the row, or take the conversation from the answers with prompts.schema=implicit",
        )
    return last.content


def _turns(chat: Sequence[tuple[object, object]]) -> list[tuple[object, str]]:
    """A conversation as it is compared: without the system message, which only one of two columns may have."""
    return [(role, str(content).strip()) for role, content in chat if role != "system"]


def _message(row: Row, where: str, value: object) -> Message:
    if not isinstance(value, dict) or not {"role", "content"} <= value.keys():
        raise row.error(
            f"{where} must be an object with role and content, found {shown(value)}",
            "correct the row; for objects with `from` and `value` use prompts.schema=sharegpt",
        )
    more = sorted(key for key in value.keys() - {"role", "content"} if value[key] is not None)
    if more:
        problem = f"{where} must hold role and content only, found also {more}, which would not reach the policy"
        raise row.error(problem, "remove it, or write it into the content")
    if value["role"] not in ROLES:
        problem = f"the role of {where} must be {', '.join(ROLES)}, found {shown(value['role'])}"
        raise row.error(problem, "rename the role, or remove the row")
    return Message(value["role"], _text(row, f"the content of {where}", _joined(value["content"])))


def _joined(content: object) -> object:
    """Content that is a list of text parts as one text; any other content unchanged."""
    if isinstance(content, list) and content:
        texts = [part.get("text") for part in content if isinstance(part, dict) and part.get("type") == "text"]
        if len(texts) == len(content) and all(isinstance(text, str) for text in texts):
            return "".join(map(str, texts))
    return content


def _text(row: Row, where: str, value: object) -> str:
    if not isinstance(value, str) or not value.strip():
        found = "an empty one" if isinstance(value, str) else shown(value)
        kind = "empty" if value is None or isinstance(value, str) else "malformed"
        raise row.error(f"{where} must be a text that is not empty, found {found}", "fill or remove the row", kind=kind)
    return valid(row, where, value)


def _id(row: Row, column: str) -> str:
    value = row.values[column]
    if isinstance(value, bool) or not isinstance(value, str | int) or value == "":
        raise row.error(
            f"column {column!r} must be a text or a whole number, found {shown(value)}",
            "correct the row, or leave prompts.columns.id empty to number the rows",
        )
    return _text(row, f"column {column!r}", str(value))


def _answer(row: Row, column: str) -> str | None:
    value = row.values[column]
    if value is not None and not isinstance(value, str):
        raise row.error(
            f"column {column!r} must be a text (or null if there is no gold answer), found {shown(value)}",
            "write it as text, or leave prompts.columns.answer empty: rules find the column in meta",
        )
    return value if value is None else valid(row, f"column {column!r}", value)
