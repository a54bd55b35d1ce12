"""Ask questions of an LLM endpoint: each is sent once, within a budget, and its reply is cached."""

from __future__ import annotations

import asyncio
import contextlib
import math
import random
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import ClassVar

from rlhf_flow.scorer.llm.budget import Budget, CapReached
from rlhf_flow.scorer.llm.endpoint import SHOWN, Connection, Endpoint, RequestFailed
from rlhf_flow.scorer.llm.parse_reply import Reply
from rlhf_flow.scorer.llm.reply_text import visible
from rlhf_flow.scorer.llm.request import Chat, digest
from rlhf_flow.system.output import tell

AT_CAP = ("stop", "abstain")
FIRST_WAIT_SECONDS = 1.0  # before the first retry; it doubles with each further one
CAUSES = {  # of an abstention, the gravest first; and the warning at the first reply of its kind
    "capped": "",
    "failed": "",
    "cut": "was cut at {limit} tokens before its verdict. Fix: raise scorer.max_tokens={max_tokens}, or set "
    "scorer.thinking=false for a model that thinks first",
    "empty": "is empty: {reply!r}. Fix: look at the endpoint; a refusal, or thoughts alone, is no verdict",
    "unclear": "gives no clear verdict: {reply!r}. Fix: ask for less in scorer.template, or set scorer.structured=auto",
}


class EndpointError(RuntimeError):
    """A question got no answer, and the run cannot continue without it."""


class EndpointScorer:
    """What scorer specs share that ask an endpoint."""

    endpoint: Endpoint
    budget: Budget

    loads_model: ClassVar[bool] = False  # the endpoint does
    cache_format: ClassVar[None] = None  # the client caches the replies

    def check(self) -> None:
        """Raise ValueError if the template, the cache, the HTTP client or its key is missing. Sends nothing."""
        self._template()
        self.endpoint.check()
        self.budget.open().close()

    @property
    def reply_tokens(self) -> int:
        """The maximum tokens of a reply."""
        return self._chat().reply_tokens

    def _chat(self) -> Chat:
        raise NotImplementedError

    def _template(self) -> str:
        raise NotImplementedError


@dataclass
class Replies:
    """The replies to questions, and their cost."""

    known: dict[str, Reply]  # by question
    capped: set[str] = field(default_factory=set)  # questions not sent because a cap was reached
    failed: set[str] = field(default_factory=set)  # questions without a reply after all retries
    asked: set[str] = field(default_factory=set)  # questions with a request that was, or may have been, charged
    calls: int = 0  # such requests, retries included
    tokens: int = 0  # of these; the maximum, if the endpoint does not report them
    cost: int = 0  # likewise, in micro-units

    def cause(self, question: str) -> str | None:
        """Which of `CAUSES` a question has no verdict for; its reply, if any, is one that could not be read."""
        reply = self.known.get(question)
        if reply is None:
            return "capped" if question in self.capped else "failed"
        return cause_of(reply)

    def count(self, question: str, tokens: int, cost: int) -> None:
        self.asked.add(question)
        self.calls += 1
        self.tokens += tokens
        self.cost += cost

    def counts(self, budget: Budget) -> dict[str, int]:
        """Metrics of the calls; the cost only if tokens have a price."""
        cost = {"judge/cost_micro": self.cost} if budget.priced else {}
        return {"judge/calls": self.calls, "judge/tokens": self.tokens, **cost}


class ChatClient:
    """Looks up known replies, and sends the other questions within the budget."""

    def __init__(
        self, chat: Chat, endpoint: Endpoint, budget: Budget, *, reads: Callable[[Reply], bool], at_cap: str = "stop"
    ) -> None:
        """`reads`: whether a reply can be read; others are paid for, but not cached.

        `at_cap`: stop (raise CapReached), or abstain from questions beyond a cap. Raises ValueError if the cache cannot
        be opened.
        """
        self.chat = chat
        self.endpoint = endpoint
        self.budget = budget
        self.ledger = budget.open()
        self.reads = reads
        self.plain = False  # the endpoint refused the schema
        self._at_cap = at_cap
        self._warned: set[str] = set()  # causes of abstentions
        if unsettled := self.ledger.spent.unsettled:
            tell(
                f"warning: {unsettled} calls of account {budget.account!r} were sent and their answers never kept; "
                "they count as spent"
            )

    def ask(self, questions: Mapping[str, str]) -> Replies:
        """Send every question that has no known reply, once. `questions`: question -> its wording in version 0.1.

        Raises EndpointError, or CapReached with at_cap=stop, after the replies to all sent requests are stored.
        """
        # two servers may serve different models under one name, so the endpoint is part of the key
        keys = {question: digest([self.endpoint.known_as, self.chat.public(question)]) for question in questions}
        old_keys = {key: digest(self.chat.body(questions[question])) for question, key in keys.items()}
        if adopted := self.ledger.adopt(old_keys):
            tell(
                f"note: {adopted} judgements were kept by an earlier version without the endpoint's name; they are "
                f"taken as those of {self.endpoint.known_as}"
            )
        replies = Replies(self.kept(keys))
        missing = {question: key for question, key in keys.items() if question not in replies.known}
        if missing:
            try:
                asyncio.run(_Batch(self, replies).run(missing))
            except CapReached:
                if self._at_cap == "stop":
                    raise
                replies.capped = missing.keys() - replies.known.keys() - replies.failed
        return replies

    def close(self) -> None:
        self.ledger.close()

    def kept(self, keys: Mapping[str, str]) -> dict[str, Reply]:
        """The cached replies that can be read, by question; version 0.1 cached others too."""
        found = self.ledger.look_up(list(keys.values()))
        replies = {question: Reply.from_json(found[key]) for question, key in keys.items() if key in found}
        return {question: reply for question, reply in replies.items() if self.reads(reply)}

    def warn(self, reply: Reply) -> None:
        """Print why a reply could not be read, once per cause."""
        cause = cause_of(reply)
        if cause not in self._warned:
            self._warned.add(cause)
            problem = CAUSES[cause].format(
                limit=self.chat.reply_tokens, max_tokens=self.chat.max_tokens, reply=reply.text[:SHOWN]
            )
            tell(f"warning: a reply of the judge {problem}. Such replies count as abstentions.")


class _Batch:
    """Sends some questions to the endpoint, `concurrency` at a time."""

    def __init__(self, client: ChatClient, replies: Replies) -> None:
        self._client = client
        self._endpoint = client.endpoint
        self._replies = replies
        self._last_answer = math.inf  # time of the endpoint's last answer; before the first, of the connection
        self._stopped = asyncio.Event()
        self._error: CapReached | EndpointError | None = None

    async def run(self, keys: Mapping[str, str]) -> None:
        """If one question stops the run, requests in flight are awaited first: they may be charged already."""
        waiting = iter(keys.items())
        async with self._endpoint.connect() as connection:
            self._last_answer = time.monotonic()
            workers = min(self._endpoint.concurrency, len(keys))
            await asyncio.gather(*(self._work(connection, waiting) for _ in range(workers)))
        if self._error is not None:
            raise self._error

    async def _work(self, connection: Connection, waiting: Iterator[tuple[str, str]]) -> None:
        for question, key in waiting:
            try:
                await self._answer(connection, question, key)
            except (CapReached, EndpointError) as error:
                self._error = self._error or error
                self._stopped.set()
            if self._stopped.is_set():
                return

    async def _answer(self, connection: Connection, question: str, key: str) -> None:
        """Retry until the question is answered or has failed. Raises EndpointError if that stops the run."""
        self._check_patience("it hangs")
        for attempt in range(self._endpoint.retries + 1):
            try:
                self._replies.known[question] = await self._try(connection, question, key)
                self._last_answer = time.monotonic()
                return
            except RequestFailed as error:
                failed = error
            if failed.status in (400, 422) and self._client.chat.asked_structured == "auto" and not self._client.plain:
                self._client.plain = True  # retry without the schema, which may be all that it refuses
                continue
            if failed.for_all:
                raise self._failure(self._for_all(failed))
            if not failed.again:
                self._last_answer = time.monotonic()  # the endpoint is up, and refuses this question
                break
            if attempt == self._endpoint.retries or not await self._waited(failed, attempt):
                break
        if self._endpoint.on_failure == "stop":
            raise self._failure(f"{failed}. Fix: scorer.endpoint.on_failure=abstain skips such questions.")
        self._replies.failed.add(question)

    async def _try(self, connection: Connection, question: str, key: str) -> Reply:
        """Reserve, send, settle. A request that was sent and got no answer stays reserved."""
        client = self._client
        if found := client.kept({question: key}):  # another process may have asked meanwhile
            return found[question]
        tokens_in, tokens_out = client.chat.most(question)
        most = client.ledger.reserve(tokens=tokens_in + tokens_out, cost=client.budget.cost(tokens_in, tokens_out))
        try:
            answer = await connection.send(client.chat.body(question, plain=client.plain))
        except RequestFailed as error:
            if error.charged:
                self._replies.count(question, most.tokens, most.cost)
            else:
                client.ledger.release(most)
            raise
        tokens, cost = most.tokens, most.cost
        if answer.tokens_in is not None and answer.tokens_out is not None:
            tokens, cost = answer.tokens_in + answer.tokens_out, client.budget.cost(answer.tokens_in, answer.tokens_out)
        readable = client.reads(answer.reply)
        kept = {key: answer.reply.as_json()} if readable else {}
        source = f"{client.chat.model} at {self._endpoint.known_as}"
        client.ledger.settle(most, kept, tokens=tokens, cost=cost, source=source)
        self._replies.count(question, tokens, cost)
        if not readable:
            client.warn(answer.reply)
        return answer.reply

    async def _waited(self, failed: RequestFailed, attempt: int) -> bool:
        """Wait before a retry: exponential backoff, or what the endpoint asks for if that is longer.

        False if the run was stopped meanwhile. Raises EndpointError if the wait would exceed patience_seconds.
        """
        seconds = random.uniform(1, 1.25) * max(FIRST_WAIT_SECONDS * 2.0**attempt, failed.wait_seconds or 0.0)
        self._check_patience(str(failed), seconds)
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(self._stopped.wait(), seconds)
        return not self._stopped.is_set()

    def _check_patience(self, problem: str, seconds: float = 0.0) -> None:
        """Raise EndpointError if, `seconds` from now, the endpoint has been silent for longer than patience_seconds."""
        silent = time.monotonic() - self._last_answer
        if silent + seconds > self._endpoint.patience_seconds:
            raise self._failure(
                f"{problem}. It has been silent for {silent:.0f} seconds, and the next try would be in {seconds:.0f}: "
                f"scorer.endpoint.patience_seconds={self._endpoint.patience_seconds:g} allows no more."
            )

    def _for_all(self, failed: RequestFailed) -> str:
        if failed.status in (401, 403, 404, 405):
            return (
                f"{failed}. Fix: check scorer.endpoint.base_url, scorer.model, and the key in "
                f"scorer.endpoint.api_key_env={self._endpoint.api_key_env}."
            )
        return f"{failed}."

    def _failure(self, problem: str) -> EndpointError:
        return EndpointError(
            f"the judge at {self._endpoint.base_url} gave no answer: {problem} "
            "The same command resumes: answered questions are cached, and not paid for again."
        )


def cause_of(reply: Reply) -> str:
    """Why a reply could not be read."""
    return "cut" if reply.cut else "unclear" if visible(reply.text) else "empty"
