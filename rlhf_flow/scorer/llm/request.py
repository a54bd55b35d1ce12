"""What is asked of a language model behind an endpoint: the wording of a question, and the request that carries it."""

from __future__ import annotations

import hashlib
import json
import math
import string
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, cast

from rlhf_flow.system.redact import redact
from rlhf_flow.types import Message

TEMPLATES = Path(__file__).with_name("templates")
OURS = ("messages", "model", "n", "stream")  # keys of a request that have their place here
LIMITS = ("max_tokens", "max_completion_tokens")  # of a reply: the newer name, where an endpoint refuses the older one
AROUND = 256  # tokens that an endpoint's own chat template may put around a question
TOP_LOGPROBS = 20  # the most that OpenAI gives
THOUGHTS = 8192  # tokens of a reply besides, if the judge is told to think
STRUCTURED = ("auto", "true", "false")


@dataclass(frozen=True)
class Chat:
    """A question as it is sent. Every error names the field of the scorer that it comes from."""

    model: str
    temperature: float
    max_tokens: int  # of a reply
    request: Mapping[str, Any]  # further keys of the request; null takes one out
    logprobs: bool = False  # ask how likely the tokens were that the reply could have begun with
    thinking: bool | None = None  # told to the chat template; None: nothing is told
    structured: str | None = None  # None is false
    schema: Mapping[str, Any] = field(default_factory=dict)  # of a structured reply

    def __post_init__(self) -> None:
        for key, rule, ok in (
            ("model", "the name by which the endpoint knows the model", bool(self.model.strip())),
            ("temperature", "a number >= 0", 0 <= self.temperature < math.inf),
            ("max_tokens", ">= 1", self.max_tokens >= 1),
            ("structured", f"one of {', '.join(STRUCTURED)}, or null", self.asked_structured in STRUCTURED),
            ("request", f"without the keys {', '.join(OURS)}", not set(OURS) & self.request.keys()),
            ("request", f"such that one of {', '.join(LIMITS)} is a number >= 1", self._limit() >= 1),
        ):
            if not ok:
                raise ValueError(f"scorer.{key} must be {rule}, got {vars(self)[key]!r}")

    @property
    def asked_structured(self) -> str:
        return (self.structured or "false").lower()

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
        """The request without the secrets in `request`: with another key it is the same question."""
        return replace(self, request=cast(Mapping[str, Any], redact(self.request))).body(question)

    def most(self, question: str) -> tuple[int, int]:
        """Tokens of the question and of the reply, at most: no token is shorter than a byte of the request."""
        return len(json.dumps(self.body(question))) + AROUND, self._limit()

    def _limit(self) -> int:
        """The larger one, should both be there."""
        limits = [self.body("").get(key) for key in LIMITS]
        return max((limit for limit in limits if isinstance(limit, int)), default=0)


def template(name: str, *, needs: Collection[str], takes: Collection[str] = ()) -> str:
    """The text of a shipped template, by its name, or of a file, by its path.

    Raises ValueError where there is none, where a field that it needs is missing, or one that is not known is there.
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
        every = ", ".join(f"{{{field}}}" for field in needs)
        other = "".join(f", {{{field}}}" for field in takes)
        raise ValueError(
            f"scorer.template={name} must have the fields {every}, and may have no other than these{other}; it has "
            f"{', '.join(sorted(fields)) or 'none'}. Double the braces that are no field."
        )
    return text


MARK = "{mark}"  # of a template: makes its delimiters such that no answer can write them


def question(template: str, **fields: str) -> tuple[str, str]:
    """The question, and its wording in version 0.1, which had no marks.

    The mark is drawn from the fields, so that the same question is asked the same way, and an answer cannot hold the
    mark that it is shown under.
    """
    mark = digest(fields)[:8]
    return template.format(**fields, mark=f" {mark}"), template.format(**fields, mark="")


def talk(messages: Sequence[Message]) -> str:
    """A conversation as text: each message behind its role, blank lines between."""
    return "\n\n".join(f"{message.role}: {message.content}" for message in messages)


def digest(value: object) -> str:
    """sha256 of a value that JSON can write."""
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()
