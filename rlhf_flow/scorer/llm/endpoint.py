"""An OpenAI-compatible endpoint: send one request, and classify its failure.

httpx, not an SDK: an SDK sends settings of the environment (organisation, project, headers) to any host, and retries by
itself, although each request may be charged.
"""

from __future__ import annotations

import asyncio
import email.utils
import json
import math
import os
import re
import socket
import ssl
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from functools import cache
from types import TracebackType
from typing import TYPE_CHECKING, Any

from rlhf_flow.scorer.fields import check_fields
from rlhf_flow.scorer.llm.completion import Answer, answer_of, error_status
from rlhf_flow.system.optional_deps import require
from rlhf_flow.system.redact import is_name, know, without_known

if TYPE_CHECKING:
    import httpx

ON_FAILURE = ("stop", "abstain")
PAID = "https://api.openai.com"
PROXIES = ("ALL_PROXY", "HTTPS_PROXY", "HTTP_PROXY", "all_proxy", "https_proxy", "http_proxy")
CONNECT_SECONDS = 5.0
FREE = (429, 500, 503, 529)  # refused before generation; with other 5xx a gateway failed, and it may be charged
AGAIN = (408, 409, 425, 429)  # statuses to retry, besides every 5xx
FOR_ALL = (401, 403, 404, 405)  # every question would fail
REFUSABLE = ("max_tokens", "max_completion_tokens", "temperature", "top_logprobs", "logprobs", "chat_template_kwargs")
SHOWN = 300  # characters of an endpoint's error that are shown


@dataclass(frozen=True)
class Endpoint:
    """Address, key, timeouts and retries. No field changes the questions."""

    base_url: str = "https://api.openai.com/v1"  # of the API, such as http://host/v1
    query: dict[str, str] = field(default_factory=dict)  # parameters of every request, as {api-version: 2024-10-21}
    name: str | None = None  # its name in the cache; null: base_url. Set it if the server's address changes
    api_key_env: str | None = "OPENAI_API_KEY"  # environment variable with the key, which is sent to base_url only
    concurrency: int = 16  # requests at a time
    timeout_seconds: float = 120.0  # of one request, from the first byte sent to the last one read
    retries: int = 6  # of one question, after 1, 2, 4, ... seconds, or as long as the endpoint asks for
    patience_seconds: float = 600.0  # the run stops if the endpoint is silent for longer, whatever on_failure is
    on_failure: str = "stop"  # stop | abstain (and count it), if a question has no answer after all retries

    def __post_init__(self) -> None:
        if not re.fullmatch(r"https?://[^@\s]+", self.base_url):  # the value is not shown: it may hold a password
            raise ValueError("scorer.endpoint.base_url must be http:// or https://, without a user or a password in it")
        if "?" in self.base_url:
            raise ValueError(
                "scorer.endpoint.base_url must end before its question mark. Fix: move what follows it to "
                "scorer.endpoint.query, such as scorer.endpoint.query={api-version: 2024-10-21}."
            )
        if self.api_key_env is not None and not is_name(self.api_key_env):  # likewise
            raise ValueError(
                "scorer.endpoint.api_key_env must be the name of an environment variable in capitals, not the key "
                "itself. Fix: export JUDGE_KEY=..., and scorer.endpoint.api_key_env=JUDGE_KEY."
            )
        check_fields(
            self,
            ("concurrency", ">= 1", self.concurrency >= 1),
            ("timeout_seconds", "> 0", 0 < self.timeout_seconds < math.inf),
            ("retries", ">= 0", self.retries >= 0),
            ("patience_seconds", ">= scorer.endpoint.timeout_seconds", self.timeout_seconds <= self.patience_seconds),
            ("on_failure", f"one of {', '.join(ON_FAILURE)}", self.on_failure in ON_FAILURE),
            slot="scorer.endpoint",
        )

    def check(self) -> None:
        """Raise ValueError if the HTTP client is not installed, or a paid service has no key."""
        require("httpx", part="a language model as the judge", extras=("judge",), instead="scorer=reward_model")
        if any(os.environ.get(name, "").startswith("socks") for name in PROXIES):
            require("socksio", part="a SOCKS proxy of the environment", extras=("judge",), instead="NO_PROXY=*")
        key = self._key()
        if key is None and self.base_url.startswith(PAID):
            raise ValueError(
                f"{self.base_url} needs a key, and scorer.endpoint.api_key_env={self.api_key_env} names none. Fix: put "
                "it into that environment variable, or set scorer.endpoint.base_url to an endpoint of your own."
            )

    @property
    def known_as(self) -> str:
        """The endpoint in cache keys: two servers may serve different models under one name."""
        return self.name or self.base_url.rstrip("/")

    def connect(self) -> Connection:
        """For one event loop: `async with endpoint.connect() as connection`."""
        import httpx

        key = self._key()
        headers = {} if key is None else {"Authorization": f"Bearer {key}"}
        if key is not None and "api-version" in self.query:  # Azure
            headers["api-key"] = key
        client = httpx.AsyncClient(
            headers=headers,
            params=self.query,
            timeout=httpx.Timeout(self.timeout_seconds, connect=min(CONNECT_SECONDS, self.timeout_seconds)),
            limits=httpx.Limits(max_connections=self.concurrency),
            verify=_certificates(os.environ.get("SSL_CERT_FILE"), os.environ.get("SSL_CERT_DIR")),
        )
        return Connection(
            client, f"{self.base_url.rstrip('/')}/chat/completions", key=key, seconds=self.timeout_seconds
        )

    def _key(self) -> str | None:
        """None if there is none. Raises ValueError, which does not show the key, if no header can hold it."""
        if self.api_key_env is not None:
            know(self.api_key_env)
        key = None if self.api_key_env is None else os.environ.get(self.api_key_env, "").strip()
        if key and not (key.isascii() and key.isprintable() and " " not in key):
            raise ValueError(
                f"scorer.endpoint.api_key_env={self.api_key_env} names a variable whose value is no key: it holds "
                "blanks, or characters that no HTTP header can hold."
            )
        return key or None


class RequestFailed(Exception):  # noqa: N818  # the caller may well get an answer at the next try
    """A request got no answer."""

    def __init__(
        self,
        reason: str,
        *,
        charged: bool,
        again: bool,
        for_all: bool = False,
        wait_seconds: float | None = None,
        status: int | None = None,
    ) -> None:
        super().__init__(reason)
        self.charged = charged  # certainly or possibly
        self.again = again  # a retry may be answered
        self.for_all = for_all  # every question would fail
        self.wait_seconds = wait_seconds  # what the endpoint asks for
        self.status = status  # None: no response


class Connection:
    """An open client of an endpoint."""

    def __init__(self, client: httpx.AsyncClient, url: str, *, key: str | None, seconds: float) -> None:
        self._client = client
        self._url = url
        self._key = key
        self._seconds = seconds
        self._reached = False  # a response arrived

    async def __aenter__(self) -> Connection:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._client.aclose()

    async def send(self, body: Mapping[str, Any]) -> Answer:
        """Send one request, without retries. Raises RequestFailed, whose text never holds the key."""
        status, written, headers = await self._post(body)
        self._reached = True
        try:
            completion = json.loads(written) if status == 200 else {}
            error = error_status(completion)
            if status != 200 or error is not None:
                status = status if error is None else error
                raise self._refused(status, written, headers, body) from None
            return answer_of(completion)
        except (ValueError, LookupError, TypeError, AttributeError, RecursionError):
            shown = self._shown(written)
            raise RequestFailed(f"its answer is no chat completion: {shown!r}", charged=True, again=True) from None

    async def _post(self, body: Mapping[str, Any]) -> tuple[int, str, Mapping[str, str]]:
        """Status, body and headers of the response. Errors of httpx are not chained: they hold the request."""
        import httpx

        try:
            async with asyncio.timeout(self._seconds):  # the timeout of httpx restarts with every byte
                response = await self._client.post(self._url, json=body)
                return response.status_code, self._without_key(response.text), response.headers
        except (TimeoutError, httpx.ReadTimeout, httpx.WriteTimeout):
            raise RequestFailed(f"no answer within {self._seconds:g} seconds", charged=True, again=True) from None
        except (httpx.ConnectError, httpx.ConnectTimeout, httpx.ProxyError) as error:
            raise self._unreached(error) from None
        except httpx.HTTPError as error:
            why = f"the connection broke ({type(error).__name__})"
            raise RequestFailed(why, charged=True, again=True) from None

    def _unreached(self, error: httpx.HTTPError) -> RequestFailed:
        """Certificate, TLS, DNS and proxy errors stop the run at once, unless the endpoint has answered before."""
        why = "no server answers there"
        for cause in _causes(error):
            if isinstance(cause, ssl.SSLCertVerificationError):
                why = (
                    f"its TLS certificate is not trusted ({cause.verify_message}). Fix: set SSL_CERT_FILE to the file "
                    "of the authority that signed it"
                )
            elif isinstance(cause, ssl.SSLError):
                why = f"it speaks no TLS ({cause.reason}). Fix: write http:// in scorer.endpoint.base_url"
            elif isinstance(cause, socket.gaierror):
                why = f"its name cannot be resolved ({cause.strerror}). Fix: correct scorer.endpoint.base_url, or DNS"
            elif type(cause).__name__ == "ProxyError":
                why = f"the proxy of the environment ({', '.join(filter(os.environ.get, PROXIES))}) failed: {cause}"
            else:
                continue
            return RequestFailed(why, charged=False, again=True, for_all=not self._reached)
        return RequestFailed(why, charged=False, again=True)

    def _refused(self, status: int, written: str, headers: Mapping[str, str], body: Mapping[str, Any]) -> RequestFailed:
        why = f"it answered with status {status}: {self._shown(written)}"
        key = next((key for key in REFUSABLE if status in (400, 422) and key in body and key in written), None)
        if key is not None:
            why += f" Fix: {_remedy(key, body)}"
        return RequestFailed(
            why,
            charged=status >= 500 and status not in FREE,
            again=status >= 500 or status in AGAIN,
            for_all=status in FOR_ALL or key is not None,
            wait_seconds=_seconds(headers.get("retry-after")),
            status=status,
        )

    def _shown(self, text: str) -> str:
        text = self._without_key(text)
        return text if len(text) <= SHOWN else f"{text[:SHOWN]}..."

    def _without_key(self, text: str) -> str:
        """Some endpoints repeat the key in their errors."""
        return without_known(text if self._key is None else text.replace(self._key, "[key]"))


def _causes(error: BaseException | None) -> Iterator[BaseException]:
    while error is not None:
        yield error
        error = error.__cause__ or error.__context__


def _remedy(key: str, body: Mapping[str, Any]) -> str:
    """The override that removes or renames a request key that the server refuses."""
    if key == "max_tokens":
        return f"scorer.request={{max_tokens: null, max_completion_tokens: {body[key]}}}"
    if key in ("logprobs", "top_logprobs"):
        return "scorer.logprobs=false"
    return f"scorer.request={{{key}: null}}"


@cache
def _certificates(file: str | None, folder: str | None) -> ssl.SSLContext:
    """Those that httpx takes if the environment names this file and folder. To read them takes 50 ms."""
    import httpx

    return httpx.create_ssl_context()


def _seconds(retry_after: str | None) -> float | None:
    """Of a Retry-After header: a number of seconds, or a date; None if it is neither."""
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
