"""Prompts of an LLM judge, and the chat-completion requests that carry them."""

from __future__ import annotations

import hashlib
import json
import math
import string
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, cast

from rlhf_flow.scorer.fields import check_fields
from rlhf_flow.system.redact import redact
from rlhf_flow.types import Message

TEMPLATES = Path(__file__).with_name("templates")
OURS = ("messages", "model", "n", "stream")  # request keys that scorer.request may not set
LIMITS = ("max_tokens", "max_completion_tokens")  # of a reply; some endpoints refuse the older name
OVERHEAD = 256  # tokens that an endpoint's chat template may add to a question
TOP_LOGPROBS = 20  # OpenAI's maximum
THOUGHTS = 8192  # additional reply tokens with thinking=true
STRUCTURED = ("auto", "true", "false")
MARK = "{mark}"  # template field: a suffix of delimiters that no answer can forge


@dataclass(frozen=True)
class Chat:
    """How questions are sent. Errors name the scorer's fields."""

    model: str
    temperature: float
    max_tokens: int  # of a reply
    request: Mapping[str, Any]  # further keys of the request; null removes one
    logprobs: bool = False  # request the log-probs of the reply's first token
    thinking: bool | None = None  # enable_thinking of the chat template; None: not sent
    structured: str | None = None  # None is false
    schema: Mapping[str, Any] = field(default_factory=dict)  # of a structured reply

    def __post_init__(self) -> None:
        check_fields(
            self,
            ("model", "the name by which the endpoint knows the model", bool(self.model.strip())),
            ("temperature", "a number >= 0", 0 <= self.temperature < math.inf),
            ("max_tokens", ">= 1", self.max_tokens >= 1),
            ("structured", f"one of {', '.join(STRUCTURED)}, or null", self.asked_structured in STRUCTURED),
            ("request", f"without the keys {', '.join(OURS)}", not set(OURS) & self.request.keys()),
            ("request", f"such that one of {', '.join(LIMITS)} is a number >= 1", self.reply_tokens >= 1),
        )

    @property
    def asked_structured(self) -> str:
        return (self.structured or "false").lower()

    @property
    def reply_tokens(self) -> int:
        """The maximum tokens of a reply: the larger one, if the request has both limits."""
        limits = [self.body("").get(key) for key in LIMITS]
        return max((limit for limit in limits if isinstance(limit, int)), default=0)

    def body(self, question: str, *, plain: bool = False) -> dict[str, Any]:
        """The request; `plain`: without the schema, for an endpoint that refuses it."""
        own: dict[str, Any] = {
            "model": self.model,
            "messages": [{"role": "user", "content": question}],
            "temperature": self.temperature,
            "max_tokens": self.max_tokens + (THOUGHTS if self.thinking else 0),
        }
        if self.logprobs:
            own |= {"logprobs": True, "top_logprobs": TOP_LOGPROBS}
        if self.thinking is not None:
            own["chat_template_kwargs"] = {"enable_thinking": self.thinking}
        if self.asked_structured != "false" and not plain:
            schema = {"name": "reply", "strict": True, "schema": self.schema}
            own["response_format"] = {"type": "json_schema", "json_schema": schema}
        return {key: value for key, value in {**own, **self.request}.items() if value is not None}

    def public(self, question: str) -> dict[str, Any]:
        """The request with the secrets in `request` redacted, so that a new API key does not change the question."""
        return replace(self, request=cast(Mapping[str, Any], redact(self.request))).body(question)

    def most(self, question: str) -> tuple[int, int]:
        """Maximum tokens of the question and of the reply; a token has at least one byte of the request."""
        return len(json.dumps(self.body(question))) + OVERHEAD, self.reply_tokens


def template(name: str, *, needs: Collection[str], takes: Collection[str] = ()) -> str:
    """The text of a shipped template, by name, or of a file, by path.

    Raises ValueError if there is none, or its fields are not all of `needs` and some of `takes`.
    """
    shipped = {path.stem: path for path in sorted(TEMPLATES.glob("*.txt"))}
    try:
        text = shipped.get(name, Path(name)).read_text(encoding="utf-8")
        fields = {field for _, field, _, _ in string.Formatter().parse(text) if field is not None}
    except (OSError, ValueError) as error:
        raise ValueError(
            f"scorer.template must be one of {', '.join(shipped)}, or the path of a text file in which braces that are "
            f"no field are doubled, got {name!r}: {error}"
        ) from error
    if not set(needs) <= fields <= {*needs, *takes}:
        required = ", ".join(f"{{{field}}}" for field in needs)
        optional = "".join(f", {{{field}}}" for field in takes)
        raise ValueError(
            f"scorer.template={name} must have the fields {required}, and may have no other than these{optional}; it "
            f"has {', '.join(sorted(fields)) or 'none'}. Fix: double the braces that are no field."
        )
    return text


def question(template: str, **fields: str) -> tuple[str, str]:
    """The question, and its wording in version 0.1, which had no marks.

    The mark is a hash of the fields: the same question has the same mark, and an answer cannot contain its own.
    """
    mark = digest(fields)[:8]
    return template.format(**fields, mark=f" {mark}"), template.format(**fields, mark="")


def talk(messages: Sequence[Message]) -> str:
    """A conversation as text: "role: content" per message, with blank lines between."""
    return "\n\n".join(f"{message.role}: {message.content}" for message in messages)


def digest(value: object) -> str:
    """sha256 of a JSON value."""
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()
