"""Parse a chat completion of an OpenAI-compatible server: the reply and its usage, or the error in its place."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from rlhf_flow.scorer.llm.parse_reply import Reply

STATUS = {"rate": 429, "quota": 429, "overload": 529, "auth": 401, "api_key": 401, "permission": 403, "invalid": 400}


@dataclass(frozen=True)
class Answer:
    """A reply with the tokens of question and reply, None if the endpoint does not report them."""

    reply: Reply
    tokens_in: int | None
    tokens_out: int | None


def error_status(completion: Mapping[str, Any]) -> int | None:
    """The status that an error in a body of status 200 stands for; None if the body holds no error."""
    choices = completion.get("choices") or [{}]
    error = completion.get("error") or (choices[0].get("error") if isinstance(choices, list) else None)
    if completion.get("object") == "error":
        error = completion
    if not error:
        return None
    code = str(error.get("code") or error.get("status") or error.get("type") or "") if isinstance(error, dict) else ""
    if code.isdecimal() and 400 <= int(code) <= 599:
        return int(code)
    return next((status for word, status in STATUS.items() if word in code.lower()), 500)


def answer_of(completion: Mapping[str, Any]) -> Answer:
    """Raises ValueError, LookupError, TypeError or AttributeError if the mapping is no chat completion.

    A completion without text, such as a refusal or one without choices, is an empty reply. Thoughts in a field of
    their own (`reasoning_content`) are ignored.
    """
    if not isinstance(completion["choices"], list):
        raise TypeError("choices is a list")
    choice = completion["choices"][0] if completion["choices"] else {}
    text = _text((choice.get("message") or {}).get("content"))
    usage = completion.get("usage")
    usage = usage if isinstance(usage, dict) else {}
    reply = Reply(text, _begins(choice, text), cut=choice.get("finish_reason") == "length")
    return Answer(reply, _tokens(usage.get("prompt_tokens")), _tokens(usage.get("completion_tokens")))


def _text(content: object) -> str:
    """Of a string, or of the text parts of a list."""
    if isinstance(content, list):
        return "".join(_text(part.get("text")) for part in content if isinstance(part, dict))
    return content if isinstance(content, str) else ""


def _begins(choice: Mapping[str, Any], text: str) -> tuple[tuple[str, float], ...]:
    """Top log-probs of the first token, the likeliest first; empty if the listed tokens are not the visible text.

    Some servers list the tokens of hidden thoughts too: then the first token is not the verdict's.
    """
    logprobs = choice.get("logprobs")
    listed = logprobs.get("content") if isinstance(logprobs, dict) else None
    tokens = [one for one in listed or () if isinstance(one, dict)]
    if not tokens or _plain("".join(str(one.get("token")) for one in tokens)) != _plain(text):
        return ()
    tops = [one for one in (tokens[0].get("top_logprobs") or ()) if isinstance(one, dict)]
    begins = [(str(one.get("token")), float(one["logprob"])) for one in tops if _is_finite(one.get("logprob"))]
    return tuple(sorted(begins, key=lambda pair: (-pair[1], pair[0])))


def _plain(text: str) -> str:
    """Without spaces, tokenizers' space symbols, and control tokens."""
    return re.sub(r"<[|｜][^<>]*[|｜]>|</?s>|<eos>|<end_of_turn>|[\s▁ĠĊ]", "", text)


def _is_finite(number: object) -> bool:
    return isinstance(number, int | float) and not isinstance(number, bool) and math.isfinite(number)


def _tokens(number: object) -> int | None:
    return number if isinstance(number, int) and not isinstance(number, bool) and number >= 0 else None
