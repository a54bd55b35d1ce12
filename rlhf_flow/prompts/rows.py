"""What a row of a data set must hold to be a prompt, and what is said when it does not."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from rlhf_flow.types import Message

ROLES = ("system", "user", "assistant")


@dataclass(frozen=True)
class Columns:
    """Which column is what. All others travel along as `Prompt.meta`, where rules find them."""

    prompt: str = "prompt"  # a text (one user message), or a list of {role, content} that ends with the user
    id: str | None = None  # None: ids are made from row numbers, "row-17"
    answer: str | None = None  # a gold answer, for rules
    # name -> column: answers that samplers may draw (who: dataset), each a text, or a chat that ends with the assistant
    candidates: dict[str, str] = field(default_factory=dict)  # name -> column, of answers that came with the prompt

    @property
    def named(self) -> Mapping[str, str]:
        """The columns that are named, by the key that does so."""
        single = {"prompt": self.prompt, "id": self.id, "answer": self.answer}
        several = {f"candidates.{name}": column for name, column in self.candidates.items()}
        return {key: column for key, column in (single | several).items() if column is not None}


@dataclass(frozen=True)
class Row:
    """One row as it was read, and where it stands."""

    place: str  # "prompts.jsonl, line 17"
    number: int  # 1-based: the line of a text file, the row of a table
    values: Mapping[str, object]


@dataclass(frozen=True)
class Question:
    """A row that holds what a prompt needs; not yet tokenised."""

    place: str
    id: str
    messages: tuple[Message, ...]
    answer: str | None
    candidates: Mapping[str, str]  # name -> text
    meta: Mapping[str, object]  # JSON values only
    left_out: int  # columns that are no JSON values and so cannot travel in meta


def question(row: Row, columns: Columns, *, prefix: str = "row") -> Question:
    """Check a row. Raises ValueError with the place, what was expected, what was found and the way out."""
    for key, name in columns.named.items():
        if name not in row.values:
            there = ", ".join(row.values) or "none"
            raise ValueError(
                f"{row.place}: expected a column {name!r}; the columns there are: {there}. "
                f"Name the right one with prompts.columns.{key}=…"
            )
    meta = {name: value for name, value in row.values.items() if name not in columns.named.values()}
    kept = {name: value for name, value in meta.items() if is_json(value)}
    return Question(
        place=row.place,
        id=f"{prefix}-{row.number}" if columns.id is None else _id(row, columns.id),
        messages=_messages(row, columns.prompt),
        answer=None if columns.answer is None else _answer(row, columns.answer),
        candidates={name: _candidate(row, column) for name, column in columns.candidates.items()},
        meta=kept,
        left_out=len(meta) - len(kept),
    )


def questions(rows: Sequence[Row], columns: Columns, *, prefix: str = "row") -> list[Question]:
    """Check all rows of a file, and that no two share an id."""
    seen: dict[str, str] = {}
    asked = []
    for row in rows:
        one = question(row, columns, prefix=prefix)
        if one.id in seen:
            raise ValueError(
                f"{row.place}: expected an id of its own, found {one.id!r}, which is already the id of {seen[one.id]}. "
                "Give every row its own id, or leave prompts.columns.id empty to number the rows."
            )
        seen[one.id] = row.place
        asked.append(one)
    return asked


def shown(value: object) -> str:
    """A value as an error message shows it: its type, and a few of its characters."""
    text = repr(value)
    return f"{type(value).__name__} {text if len(text) <= 60 else text[:57] + '…'}"


def is_json(value: object) -> bool:
    try:
        json.dumps(value, allow_nan=False)
    except (TypeError, ValueError):
        return False
    return True


def _messages(row: Row, column: str) -> tuple[Message, ...]:
    value = row.values[column]
    if isinstance(value, str):
        return (Message("user", _text(row, f"column {column!r}", value)),)
    if not isinstance(value, list):
        raise ValueError(
            f"{row.place}: column {column!r} must be a text or a list of {{role, content}}, found {shown(value)}. "
            "Correct the row, or name another column with prompts.columns.prompt=…"
        )
    messages = tuple(_message(row, f"message {at} of column {column!r}", one) for at, one in enumerate(value, start=1))
    if not messages or messages[-1].role != "user":
        found = f"one from the {messages[-1].role}" if messages else "no message"
        raise ValueError(
            f"{row.place}: the last message of column {column!r} must be from the user, found {found}. "
            "Take the answer off the end of the chat; the policy gives its own."
        )
    if any(message.role == "system" for message in messages[1:]):
        raise ValueError(
            f"{row.place}: a system message may only come first in column {column!r}. Move it to the front."
        )
    return messages


def _candidate(row: Row, column: str) -> str:
    """The text; of a chat the last message, which must be the assistant's. What was asked before it is not compared."""
    value = row.values[column]
    if not isinstance(value, list):
        return _text(row, f"column {column!r}", value)
    last = _message(row, f"the last message of column {column!r}", value[-1]) if value else None
    if last is None or last.role != "assistant":
        raise ValueError(
            f"{row.place}: column {column!r} must be a text, or a chat whose last message is from the assistant, found "
            f"{'no message' if last is None else f'one from the {last.role}'}. Correct the row, or name another column."
        )
    return last.content


def _message(row: Row, where: str, value: object) -> Message:
    if not isinstance(value, dict) or not {"role", "content"} <= value.keys():
        raise ValueError(f"{row.place}: {where} must be an object with role and content, found {shown(value)}.")
    more = sorted(key for key in value.keys() - {"role", "content"} if value[key] is not None)
    if more:
        raise ValueError(
            f"{row.place}: {where} must hold role and content only, found also {', '.join(more)}. "
            "Nothing else of a message reaches the policy: remove it, or write it into the content."
        )
    if value["role"] not in ROLES:
        raise ValueError(f"{row.place}: the role of {where} must be {', '.join(ROLES)}, found {shown(value['role'])}.")
    return Message(value["role"], _text(row, f"the content of {where}", value["content"]))


def _text(row: Row, where: str, value: object) -> str:
    if not isinstance(value, str) or not value.strip():
        found = "an empty one" if isinstance(value, str) else shown(value)
        raise ValueError(
            f"{row.place}: {where} must be a text that is not empty, found {found}. Fill or remove the row."
        )
    try:
        value.encode()
    except UnicodeEncodeError as error:  # JSON can write half a surrogate pair, which no tokenizer can read
        raise ValueError(
            f"{row.place}: {where} must be valid Unicode, found half a surrogate pair at character {error.start + 1}. "
            "Write the file anew from its source."
        ) from error
    return value


def _id(row: Row, column: str) -> str:
    value = row.values[column]
    if isinstance(value, bool) or not isinstance(value, str | int) or value == "":
        raise ValueError(
            f"{row.place}: column {column!r} must be a text or a whole number, found {shown(value)}. "
            "Correct the row, or leave prompts.columns.id empty to number the rows."
        )
    return _text(row, f"column {column!r}", str(value))


def _answer(row: Row, column: str) -> str | None:
    value = row.values[column]
    if value is not None and not isinstance(value, str):
        raise ValueError(
            f"{row.place}: column {column!r} must be a text (or null where there is no gold answer), "
            f"found {shown(value)}. "
            "Write it as text, or leave prompts.columns.answer empty: rules find the column in meta."
        )
    return value
