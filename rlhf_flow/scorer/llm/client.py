"""Questions to a language model behind an endpoint: each is sent once, and paid for once, whoever asks it again."""

from __future__ import annotations

import asyncio
import contextlib
import math
import random
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field

from rlhf_flow.scorer.llm.budget import Budget, CapReached, SpendLedger
from rlhf_flow.scorer.llm.endpoint import SHOWN, Endpoint, Line, RequestFailed
from rlhf_flow.scorer.llm.parse_reply import Reply
from rlhf_flow.scorer.llm.request import Chat, digest
from rlhf_flow.scorer.llm.visible import visible

AT_CAP = ("stop", "abstain")
CAUSES = {  # of an abstention, the gravest first; and what is said at the first one
    "capped": "",
    "failed": "",
    "cut": "was cut at {limit} tokens before its verdict. Fix: raise scorer.max_tokens={max_tokens}, or set "
    "scorer.thinking=false for a model that thinks first",
    "empty": "is empty: {reply!r}. Fix: look at the endpoint; a refusal, or thoughts alone, is no verdict",
    "unclear": "gives no clear verdict: {reply!r}. Fix: ask for less in scorer.template, or set scorer.structured=auto",
}


class EndpointError(RuntimeError):
    """A question has no answer, and the run cannot go on without it."""


@dataclass
class Replies:
    """What became of questions."""

    known: dict[str, Reply]  # by question; without those that have no answer
    capped: set[str] = field(default_factory=set)  # questions without an answer, for a cap of the budget was reached
    failed: set[str] = field(default_factory=set)  # questions without an answer after all tries
    asked: set[str] = field(default_factory=set)  # questions with a request that was, or may have been, charged
    calls: int = 0  # such requests: a question that is tried again has more than one
    tokens: int = 0  # of these; where the endpoint does not say, the most that it can have been
    cost: int = 0  # likewise, in micro-units

    def cause(self, question: str) -> str | None:
        """Why a question has no verdict, of `CAUSES`, if its reply is one that the caller could not read."""
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
        """What it took; money only where tokens have a price."""
        cost = {"judge/cost_micro": self.cost} if budget.priced else {}
        return {"judge/calls": self.calls, "judge/tokens": self.tokens, **cost}


class ChatClient:
    """A model at work: it looks up what is known, and sends the rest within the budget."""

    def __init__(
        self,
        chat: Chat,
        endpoint: Endpoint,
        budget: Budget,
        *,
        reads: Callable[[Reply], bool],
        at_cap: str = "stop",
    ) -> None:
        """`reads`: whether a reply gives what was asked for; one that does not is paid for and not kept.

        `at_cap`: stop, or abstain from what is beyond a cap. Raises ValueError if the cache cannot be opened.
        """
        self._at_cap = at_cap
        self._work = Work(chat, endpoint, budget, budget.open(), reads)
        if unsettled := self._work.purse.spent.unsettled:
            print(
                f"warning: {unsettled} calls of account {budget.account!r} were sent and their answers never kept; "
                "they count as spent",
                flush=True,
            )

    def ask(self, questions: Mapping[str, str]) -> Replies:
        """Send every question that has no known answer, once. Each comes with its wording in version 0.1.

        Raises EndpointError, or CapReached if it stops at a cap, but not before the answers to what was sent are kept.
        If it abstains, nothing more is sent, and the rest is `Replies.capped`.
        """
        work = self._work
        keys = {question: work.key(question) for question in questions}
        if adopted := work.purse.adopt({key: work.old_key(questions[question]) for question, key in keys.items()}):
            print(
                f"note: {adopted} judgements were kept by an earlier version without the endpoint's name; they are "
                f"taken as those of {work.endpoint.known_as}",
                flush=True,
            )
        replies = Replies(work.kept(keys))
        missing = {question: key for question, key in keys.items() if question not in replies.known}
        if missing:
            try:
                asyncio.run(_Batch(work, replies).run(missing))
            except CapReached:
                if self._at_cap == "stop":
                    raise
                replies.capped = missing.keys() - replies.known.keys() - replies.failed
        return replies

    def close(self) -> None:
        self._work.purse.close()


@dataclass
class Work:
    """What an asker works with, and what it has learned of the endpoint."""

    chat: Chat
    endpoint: Endpoint
    budget: Budget
    purse: SpendLedger
    reads: Callable[[Reply], bool]
    plain: bool = False  # the endpoint refused the schema
    warned: set[str] = field(default_factory=set)  # causes of abstentions

    def key(self, question: str) -> str:
        """Of the cache. Two servers may serve different models under one name: the endpoint is part of it."""
        return digest([self.endpoint.known_as, self.chat.public(question)])

    def old_key(self, question: str) -> str:
        """By which version 0.1 kept the reply."""
        return digest(self.chat.body(question))

    def kept(self, keys: Mapping[str, str]) -> dict[str, Reply]:
        """The known replies that can be read, by question; version 0.1 kept others too."""
        found = self.purse.look_up(list(keys.values()))
        replies = {question: Reply.from_json(found[key]) for question, key in keys.items() if key in found}
        return {question: reply for question, reply in replies.items() if self.reads(reply)}

    def warn(self, cause: str, reply: Reply) -> None:
        """At the first reply of its kind."""
        if cause not in self.warned:
            self.warned.add(cause)
            limit = self.chat.most("")[1]
            told = CAUSES[cause].format(limit=limit, max_tokens=self.chat.max_tokens, reply=reply.text[:SHOWN])
            print(f"warning: a reply of the judge {told}. Such replies count as abstentions.", flush=True)


class _Batch:
    """The way of some questions to the endpoint and back, a few at a time."""

    def __init__(self, work: Work, replies: Replies) -> None:
        self._with = work
        self._endpoint = work.endpoint
        self._purse = work.purse
        self._replies = replies
        self._heard = math.inf  # when the endpoint last gave an answer; at first, when it could have begun to
        self._stopped = asyncio.Event()
        self._why: CapReached | EndpointError | None = None

    async def run(self, keys: Mapping[str, str]) -> None:
        """Where one question ends the run, those on their way are waited for: they may be paid already."""
        waiting = iter(keys.items())
        async with self._endpoint.connect() as line:
            self._heard = time.monotonic()
            workers = min(self._endpoint.concurrency, len(keys))
            await asyncio.gather(*(self._work(line, waiting) for _ in range(workers)))
        if self._why is not None:
            raise self._why

    async def _work(self, line: Line, waiting: Iterator[tuple[str, str]]) -> None:
        for question, key in waiting:
            try:
                await self._answered(line, question, key)
            except (CapReached, EndpointError) as error:
                self._why = self._why or error
                self._stopped.set()
            if self._stopped.is_set():
                return

    async def _answered(self, line: Line, question: str, key: str) -> None:
        """Try until there is an answer, or there will be none. Raises EndpointError if that stops the run."""
        self._be_patient("it hangs")
        for attempt in range(self._endpoint.retries + 1):
            try:
                self._replies.known[question] = await self._tried(line, question, key)
                self._heard = time.monotonic()
                return
            except RequestFailed as error:
                failed = error
            if failed.status in (400, 422) and self._with.chat.asked_structured == "auto" and not self._with.plain:
                self._with.plain = True  # it may refuse the schema alone
                continue
            if failed.for_all:
                raise self._failure(self._for_all(failed))
            if not failed.again:
                self._heard = time.monotonic()  # it is there, and will have nothing to do with this question
                break
            if attempt == self._endpoint.retries or not await self._waited(failed, attempt):
                break
        if self._endpoint.on_failure == "stop":
            raise self._failure(f"{failed}. To do without such answers, set scorer.endpoint.on_failure=abstain.")
        self._replies.failed.add(question)

    async def _tried(self, line: Line, question: str, key: str) -> Reply:
        """One try: reserved, sent, settled. What was sent and brought no answer stays reserved."""
        work = self._with
        if found := work.kept({question: key}):  # another process may have asked meanwhile
            return found[question]
        asked, replied = work.chat.most(question)
        most = self._purse.reserve(tokens=asked + replied, cost=work.budget.cost(asked, replied))
        try:
            answer = await line.send(work.chat.body(question, plain=work.plain))
        except RequestFailed as error:
            if error.charged:
                self._replies.count(question, most.tokens, most.cost)
            else:
                self._purse.release(most)
            raise
        tokens, cost = most.tokens, most.cost
        if answer.tokens_in is not None and answer.tokens_out is not None:
            tokens, cost = answer.tokens_in + answer.tokens_out, work.budget.cost(answer.tokens_in, answer.tokens_out)
        readable = work.reads(answer.reply)
        kept = {key: answer.reply.as_json()} if readable else {}
        source = f"{work.chat.model} at {self._endpoint.known_as}"
        self._purse.settle(most, kept, tokens=tokens, cost=cost, source=source)
        self._replies.count(question, tokens, cost)
        if not readable:
            work.warn(cause_of(answer.reply), answer.reply)
        return answer.reply

    async def _waited(self, failed: RequestFailed, attempt: int) -> bool:
        """Wait twice as long as before, or as long as the endpoint asks if that is longer.

        False if the run was stopped meanwhile. Raises EndpointError instead if patience ends before.
        """
        seconds = random.uniform(1, 1.25) * max(2.0**attempt, failed.wait_seconds or 0.0)
        self._be_patient(str(failed), seconds)
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(self._stopped.wait(), seconds)
        return not self._stopped.is_set()

    def _be_patient(self, why: str, seconds: float = 0.0) -> None:
        """Raises EndpointError where the endpoint, in so many seconds, will have been silent for too long."""
        silent = time.monotonic() - self._heard
        if silent + seconds > self._endpoint.patience_seconds:
            raise self._failure(
                f"{why}. It has been silent for {silent:.0f} seconds, and the next try would be in {seconds:.0f}: "
                f"scorer.endpoint.patience_seconds={self._endpoint.patience_seconds:g} allows no more."
            )

    def _for_all(self, failed: RequestFailed) -> str:
        if failed.status in (401, 403, 404, 405):
            return (
                f"{failed}. Look at scorer.endpoint.base_url, at scorer.model, and at the key in "
                f"scorer.endpoint.api_key_env={self._endpoint.api_key_env}."
            )
        return f"{failed}."

    def _failure(self, why: str) -> EndpointError:
        return EndpointError(
            f"the judge at {self._endpoint.base_url} gave no answer: {why} "
            "The same command goes on where it stopped: what was answered is kept, and not paid for again."
        )


def cause_of(reply: Reply) -> str:
    """Why a reply that was not read could not be."""
    return "cut" if reply.cut else "unclear" if visible(reply.text) else "empty"
