"""Questions to a language model behind an endpoint: each is sent once, and paid for once, whoever asks it again."""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import json
import math
import random
import string
import time
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, cast

from rlhf_flow.redact import redact
from rlhf_flow.scorer.endpoint import Endpoint, Line, Unanswered
from rlhf_flow.scorer.purse import Budget, CapReached, Purse
from rlhf_flow.scorer.reading import Reply
from rlhf_flow.types import Message

TEMPLATES = Path(__file__).with_name("templates")
OURS = ("messages", "model", "n", "stream")  # keys of a request that have their place here
LIMITS = ("max_tokens", "max_completion_tokens")  # of a reply: the newer name, where an endpoint refuses the older one
AROUND = 256  # tokens that an endpoint's own chat template may put around a question
AT_CAP = ("stop", "abstain")
TOP_LOGPROBS = 20  # the most that OpenAI gives


class EndpointError(RuntimeError):
    """A question has no answer, and the run cannot go on without it."""


@dataclass(frozen=True)
class Chat:
    """A question as it is sent. Every error names the field of the scorer that it comes from."""

    model: str
    temperature: float
    max_tokens: int  # of a reply
    request: Mapping[str, Any]  # further keys of the request; null takes one out
    logprobs: bool = False  # ask how likely the tokens were that the reply could have begun with

    def __post_init__(self) -> None:
        for key, rule, ok in (
            ("model", "the name by which the endpoint knows the model", bool(self.model.strip())),
            ("temperature", "a number >= 0", 0 <= self.temperature < math.inf),
            ("max_tokens", ">= 1", self.max_tokens >= 1),
            ("request", f"without the keys {', '.join(OURS)}", not set(OURS) & self.request.keys()),
            ("request", f"such that one of {', '.join(LIMITS)} is a number >= 1", self._limit() >= 1),
        ):
            if not ok:
                raise ValueError(f"scorer.{key} must be {rule}, got {vars(self)[key]!r}")

    def body(self, question: str) -> dict[str, Any]:
        """The request."""
        own: dict[str, Any] = {
            "model": self.model,
            "messages": [{"role": "user", "content": question}],
            "temperature": self.temperature,
            "max_tokens": self.max_tokens,
        }
        if self.logprobs:
            own |= {"logprobs": True, "top_logprobs": TOP_LOGPROBS}
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

    def count(self, question: str, tokens: int, cost: int) -> None:
        self.asked.add(question)
        self.calls += 1
        self.tokens += tokens
        self.cost += cost

    def counts(self, budget: Budget) -> dict[str, int]:
        """What it took; money only where tokens have a price."""
        cost = {"judge/cost_micro": self.cost} if budget.priced else {}
        return {"judge/calls": self.calls, "judge/tokens": self.tokens, **cost}


class Asker:
    """A model at work: it looks up what is known, and sends the rest within the budget."""

    def __init__(self, chat: Chat, endpoint: Endpoint, budget: Budget, *, at_cap: str = "stop") -> None:
        """`at_cap`: stop, or abstain from what is beyond a cap. Raises ValueError where the cache cannot be opened."""
        self._at_cap = at_cap
        self._chat = chat
        self._endpoint = endpoint
        self._budget = budget
        self._purse = budget.open()
        if unsettled := self._purse.spent.unsettled:
            print(
                f"warning: {unsettled} calls of account {budget.account!r} were sent and their answers never kept; "
                "they count as spent",
                flush=True,
            )

    def ask(self, questions: Collection[str]) -> Replies:
        """Send every question that has no known answer, once.

        Raises EndpointError, or CapReached where it stops at a cap, but not before the answers to what was sent are
        kept. Where it abstains, nothing more is sent, and the rest is `Replies.capped`.
        """
        keys = {question: digest(self._chat.public(question)) for question in questions}
        found = self._purse.look_up(list(keys.values()))
        replies = Replies({question: Reply.from_json(found[key]) for question, key in keys.items() if key in found})
        missing = {question: key for question, key in keys.items() if key not in found}
        if missing:
            errand = Errand(self._chat, self._endpoint, self._budget, self._purse, replies)
            try:
                asyncio.run(errand.run(missing))
            except CapReached:
                if self._at_cap == "stop":
                    raise
                replies.capped = missing.keys() - replies.known.keys() - replies.failed
        return replies

    def close(self) -> None:
        self._purse.close()


class Errand:
    """The way of some questions to the endpoint and back, a few at a time."""

    def __init__(self, chat: Chat, endpoint: Endpoint, budget: Budget, purse: Purse, replies: Replies) -> None:
        self._chat = chat
        self._endpoint = endpoint
        self._budget = budget
        self._purse = purse
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
        """Try until there is an answer, or there will be none. Raises EndpointError where that stops the run."""
        self._be_patient("it hangs")
        for attempt in range(self._endpoint.retries + 1):
            try:
                self._replies.known[question] = await self._tried(line, question, key)
                self._heard = time.monotonic()
                return
            except Unanswered as error:
                failed = error
            if failed.for_all:
                raise self._failure(
                    f"{failed}. Look at scorer.endpoint.base_url, at scorer.model, and at the key in "
                    f"scorer.endpoint.api_key_env={self._endpoint.api_key_env}."
                )
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
        if found := self._purse.look_up([key]):  # another process may have asked meanwhile
            return Reply.from_json(found[key])
        asked, replied = self._chat.most(question)
        most = self._purse.reserve(tokens=asked + replied, cost=self._budget.cost(asked, replied))
        try:
            answer = await line.send(self._chat.body(question))
        except Unanswered as error:
            if error.charged:
                self._replies.count(question, most.tokens, most.cost)
            else:
                self._purse.release(most)
            raise
        tokens, cost = most.tokens, most.cost
        if answer.tokens_in is not None and answer.tokens_out is not None:
            tokens, cost = answer.tokens_in + answer.tokens_out, self._budget.cost(answer.tokens_in, answer.tokens_out)
        self._purse.settle(most, key=key, reply=answer.reply.as_json(), tokens=tokens, cost=cost)
        self._replies.count(question, tokens, cost)
        return answer.reply

    async def _waited(self, failed: Unanswered, attempt: int) -> bool:
        """Wait as long as the endpoint asks, or twice as long as before. False where the run was stopped meanwhile.

        Raises EndpointError instead where patience ends before.
        """
        seconds = random.uniform(1, 1.25) * (2**attempt if failed.wait_seconds is None else failed.wait_seconds)
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

    def _failure(self, why: str) -> EndpointError:
        return EndpointError(
            f"the judge at {self._endpoint.base_url} gave no answer: {why} "
            "The same command goes on where it stopped: what was answered is kept, and not paid for again."
        )


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


def talk(messages: Sequence[Message]) -> str:
    """A conversation as text: each message behind its role, blank lines between."""
    return "\n\n".join(f"{message.role}: {message.content}" for message in messages)


def digest(value: object) -> str:
    """sha256 of a value that JSON can write."""
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()
