"""An OpenAI-compatible endpoint: one request on the wire, and what became of it.

The client's own retries are off: each try may be charged, so each has to be reserved, and the caller decides.
"""

from __future__ import annotations

import asyncio
import email.utils
import json
import math
import os
import re
import time
from collections.abc import Mapping
from dataclasses import dataclass
from types import TracebackType
from typing import TYPE_CHECKING, Any

from rlhf_flow.needs import require
from rlhf_flow.redact import is_name, know, without_known
from rlhf_flow.scorer.reading import Reply

if TYPE_CHECKING:
    from openai import APIStatusError, AsyncOpenAI

ON_FAILURE = ("stop", "abstain")
PAID = "https://api.openai.com"
CONNECT_SECONDS = 5.0
FREE = (429, 500, 503)  # refused before anything was generated; behind a gateway's own errors something may have been
AGAIN = (408, 409, 425, 429)  # and every 5xx
FOR_ALL = (401, 403, 404, 405)  # no other question would fare better
SHOWN = 300  # characters of what an endpoint says when it fails


@dataclass(frozen=True)
class Endpoint:
    """Where the questions go, and how long it may take. Nothing here changes what is asked."""

    base_url: str = "https://api.openai.com/v1"
    api_key_env: str | None = (
        "OPENAI_API_KEY"  # the variable that holds the key: it is sent to base_url, and written nowhere
    )
    concurrency: int = 16  # requests at a time
    timeout_seconds: float = 120.0  # of one request, from the first byte sent to the last one read
    retries: int = 6  # further tries at one question; they wait 1, 2, 4, ... seconds, or as long as the endpoint asks
    patience_seconds: float = (
        600.0  # for which the endpoint may be silent; then the run stops, whatever on_failure says
    )
    on_failure: str = "stop"  # at a question without an answer after all tries: stop the run, or abstain and count it

    def __post_init__(self) -> None:
        if not re.fullmatch(r"https?://[^@\s]+", self.base_url):  # the value is not shown: it may hold a password
            raise ValueError("scorer.endpoint.base_url must be http:// or https://, without a user or a password in it")
        if self.api_key_env is not None and not is_name(self.api_key_env):  # likewise
            raise ValueError(
                "scorer.endpoint.api_key_env must be the name of an environment variable in capitals, not the key "
                "itself. Try export JUDGE_KEY=..., and scorer.endpoint.api_key_env=JUDGE_KEY."
            )
        for key, rule, ok in (
            ("concurrency", ">= 1", self.concurrency >= 1),
            ("timeout_seconds", "> 0", 0 < self.timeout_seconds < math.inf),
            ("retries", ">= 0", self.retries >= 0),
            ("patience_seconds", ">= scorer.endpoint.timeout_seconds", self.timeout_seconds <= self.patience_seconds),
            ("on_failure", f"one of {', '.join(ON_FAILURE)}", self.on_failure in ON_FAILURE),
        ):
            if not ok:
                raise ValueError(f"scorer.endpoint.{key} must be {rule}, got {vars(self)[key]!r}")

    def check(self) -> None:
        """Raise ValueError where the client is not installed, or there is no key for a service that needs one."""
        require("openai", part="a language model as the judge", extras=("judge",), instead="scorer=reward_model")
        key = self._key()
        if key is None and self.base_url.startswith(PAID):
            raise ValueError(
                f"{self.base_url} needs a key, and scorer.endpoint.api_key_env={self.api_key_env} names none: put it "
                "into that environment variable, or set scorer.endpoint.base_url to an endpoint of your own."
            )

    def connect(self) -> Line:
        """A connection, to be used in one event loop: `async with endpoint.connect() as line`."""
        from openai import AsyncOpenAI, Timeout

        key = self._key()
        client = AsyncOpenAI(
            base_url=self.base_url,
            api_key=key or "none",  # the client insists on one; an endpoint without keys ignores it
            max_retries=0,
            timeout=Timeout(self.timeout_seconds, connect=min(CONNECT_SECONDS, self.timeout_seconds)),
        )
        return Line(client, key=key, seconds=self.timeout_seconds)

    def _key(self) -> str | None:
        """None where there is none. Raises ValueError, without showing it, for one that no header can hold."""
        if self.api_key_env is not None:
            know(self.api_key_env)
        key = None if self.api_key_env is None else os.environ.get(self.api_key_env, "").strip()
        if key and not (key.isascii() and key.isprintable() and " " not in key):
            raise ValueError(
                f"scorer.endpoint.api_key_env={self.api_key_env} names a variable whose value is no key: it holds "
                "blanks, or characters that no HTTP header can hold."
            )
        return key or None


@dataclass(frozen=True)
class Answer:
    """A reply, and what it took: tokens of the question and of the reply, None where the endpoint does not say."""

    reply: Reply
    tokens_in: int | None
    tokens_out: int | None


class Unanswered(Exception):  # noqa: N818  # the caller may well get an answer at the next try
    """A request that brought no answer."""

    def __init__(
        self, reason: str, *, charged: bool, again: bool, for_all: bool = False, wait_seconds: float | None = None
    ) -> None:
        super().__init__(reason)
        self.charged = charged  # it was, or may have been
        self.again = again  # the same request may be answered yet
        self.for_all = for_all  # no question can be answered
        self.wait_seconds = wait_seconds  # what the endpoint asks for, if anything


class Line:
    """An endpoint at work."""

    def __init__(self, client: AsyncOpenAI, *, key: str | None, seconds: float) -> None:
        self._client = client
        self._key = key
        self._seconds = seconds

    async def __aenter__(self) -> Line:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._client.close()

    async def send(self, body: Mapping[str, Any]) -> Answer:
        """One try, within the endpoint's timeout. Raises Unanswered, which never holds the key."""
        written = await self._post(body)
        try:
            return _answer(json.loads(written))
        except (ValueError, LookupError, TypeError, AttributeError, RecursionError):
            shown = self._shown(written)
            raise Unanswered(f"it said what is no chat completion: {shown!r}", charged=True, again=True) from None

    async def _post(self, body: Mapping[str, Any]) -> str:
        """The body of the response. Errors of the client are not chained: they hold all that was sent."""
        from openai import APIConnectionError, APIStatusError, APITimeoutError

        own = {key: body[key] for key in ("model", "messages")}
        rest = {key: value for key, value in body.items() if key not in own}
        try:
            async with asyncio.timeout(self._seconds):  # the client's own begins anew with every byte
                response = await self._client.chat.completions.with_raw_response.create(**own, extra_body=rest)
                return self._without_key(response.text)
        except APIStatusError as error:
            raise self._refused(error) from None
        except APIConnectionError as error:
            cause = type(error.__cause__).__name__  # of httpx or httpx2, whichever this client is built upon
            if cause in ("ConnectError", "ConnectTimeout"):
                raise Unanswered("nobody answers there", charged=False, again=True) from None
            if isinstance(error, APITimeoutError):
                raise self._late() from None
            raise Unanswered(f"the connection broke ({cause})", charged=True, again=True) from None
        except TimeoutError:
            raise self._late() from None

    def _late(self) -> Unanswered:
        return Unanswered(f"no answer within {self._seconds:g} seconds", charged=True, again=True)

    def _refused(self, error: APIStatusError) -> Unanswered:
        status = error.status_code
        return Unanswered(
            f"it answered with status {status}: {self._shown(error.response.text)}",
            charged=status >= 500 and status not in FREE,
            again=status >= 500 or status in AGAIN,
            for_all=status in FOR_ALL,
            wait_seconds=_seconds(error.response.headers.get("retry-after")),
        )

    def _shown(self, text: str) -> str:
        text = self._without_key(text)
        return text if len(text) <= SHOWN else f"{text[:SHOWN]}..."

    def _without_key(self, text: str) -> str:
        """Some endpoints repeat the key in what they say."""
        return without_known(text if self._key is None else text.replace(self._key, "[key]"))


def _answer(completion: Mapping[str, Any]) -> Answer:
    """Raises ValueError, LookupError, TypeError or AttributeError for what is no chat completion."""
    choice = completion["choices"][0]
    text = choice["message"]["content"]
    if text is not None and not isinstance(text, str):
        raise TypeError("content is text")
    tokens = ((choice.get("logprobs") or {}).get("content") or [{}])[0].get("top_logprobs") or ()
    begins = [(str(one["token"]), float(one["logprob"])) for one in tokens if math.isfinite(one["logprob"])]
    begins.sort(key=lambda pair: (-pair[1], pair[0]))
    usage = completion.get("usage") or {}
    return Answer(
        Reply(text or "", tuple(begins)), _tokens(usage.get("prompt_tokens")), _tokens(usage.get("completion_tokens"))
    )


def _tokens(number: object) -> int | None:
    return number if isinstance(number, int) and number >= 0 else None


def _seconds(retry_after: str | None) -> float | None:
    """What a Retry-After header asks for, as a number of seconds or as a date; None where it asks for nothing."""
    if retry_after is None:
        return None
    try:
        seconds = float(retry_after)
    except ValueError:
        try:
            seconds = email.utils.parsedate_to_datetime(retry_after).timestamp() - time.time()
        except ValueError:
            return None
    return max(0.0, seconds) if math.isfinite(seconds) else None
