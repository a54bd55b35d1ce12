"""A Python function that scores one response."""

from __future__ import annotations

import asyncio
import inspect
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, ClassVar, TypeAlias

import numpy as np

from rlhf_flow.scorer.functions.loader import check_name, check_takes, imported, is_number, meta_of, source_hash
from rlhf_flow.scorer.pairwise import by_answer, by_comparison, prompts_and_responses
from rlhf_flow.specs import Place
from rlhf_flow.types import Prompt, Response, Rollouts, Scored, Verdict

Asking: TypeAlias = Sequence[tuple[Prompt, Response]]
Judgement: TypeAlias = Callable[[Asking], list[Verdict]]  # one verdict each; utility NaN: the function abstains
AT_ONCE = 32  # concurrent calls of an `async def` function


@dataclass(frozen=True)
class Rule:
    """A function `(prompt: tuple[Message, ...], answer: str, meta, **arguments) -> float | Verdict`, higher is better.

    `answer` is the response's text. `meta` holds the other columns of the prompt's row, and under "answer" the gold
    answer if the prompts have one. The response of higher utility wins with probability 1; exact ties get 1/2.

    None or NaN is an abstention: the response has no utility, and neither wins nor loses. `rlhf_flow.scorer.shipped`
    has ready-made functions. With `batched` the function takes lists, of prompts, answers and metas, and returns a
    list. It may be an `async def`: then responses are scored concurrently, or the batch is awaited.
    """

    function: str  # "module.function", importable from the folder that the run is started in
    arguments: dict[str, Any] = field(default_factory=dict)  # further arguments of the function, by name
    batched: bool | None = None  # the function takes and returns lists; null: one answer at a time

    intransitive: ClassVar[bool] = False
    loads_model: ClassVar[bool] = False
    cache_format: ClassVar[str] = "ranks"

    def __post_init__(self) -> None:
        check_name("scorer.function", self.function)

    def fingerprint(self) -> str:
        """Hash of the source file that the function is in."""
        return source_hash({self.function: self._asked().function})

    def check(self) -> None:
        """Raise ValueError if the function cannot be imported, or does not take the arguments."""
        self._asked()

    def open(self, place: Place) -> RuleJudge:
        """Raises ValueError as `check`."""
        asked = self._asked()
        return RuleJudge(str(asked), asked)

    def _asked(self) -> Asked:
        return Asked.of("scorer", self.function, self.arguments, batched=bool(self.batched))


@dataclass(frozen=True)
class Asked:
    """A function with its arguments."""

    key: str  # the configuration key that names it
    name: str
    function: Callable[..., Any]
    arguments: Mapping[str, Any]
    batched: bool = False

    @classmethod
    def of(cls, slot: str, name: str, arguments: Mapping[str, Any], *, batched: bool = False) -> Asked:
        """The function of `<slot>.function` with `<slot>.arguments`.

        Raises ValueError if it cannot be imported, or does not take the arguments.
        """
        function = imported(f"{slot}.function", name)
        taken = ("prompts", "answers", "metas") if batched else ("prompt", "answer", "meta")
        check_takes(f"{slot}.function", name, function, taken, arguments)
        return cls(f"{slot}.function", name, function, arguments, batched)

    def __str__(self) -> str:
        return f"{self.key}={self.name}"

    def __call__(self, asked: Asking) -> list[Verdict]:
        """Raises ValueError, with the response's id, unless each result is a finite number, a Verdict or None."""
        returned = self._batch(asked) if self.batched else self._each(asked)
        return [self._verdict(response, one) for (_, response), one in zip(asked, returned, strict=True)]

    def _each(self, asked: Asking) -> list[object]:
        def call(prompt: Prompt, response: Response) -> Any:  # noqa: ANN401  # a result, or an awaitable of one
            return self.function(prompt.messages, response.text, meta_of(prompt), **self.arguments)

        async def every() -> list[object]:
            free = asyncio.Semaphore(AT_ONCE)

            async def one(prompt: Prompt, response: Response) -> object:
                async with free:
                    with self._noted(response):
                        return await call(prompt, response)

            return list(await asyncio.gather(*(one(*both) for both in asked)))

        if inspect.iscoroutinefunction(self.function):
            return asyncio.run(every())
        results = []
        for prompt, response in asked:
            with self._noted(response):
                results.append(call(prompt, response))
        return results

    def _batch(self, asked: Asking) -> list[object]:
        if not asked:
            return []
        messages, metas = [prompt.messages for prompt, _ in asked], [meta_of(prompt) for prompt, _ in asked]
        texts = [response.text for _, response in asked]

        async def awaited() -> Any:  # noqa: ANN401  # what a user's function returns
            return await self.function(messages, texts, metas, **self.arguments)

        with self._noted(asked[0][1]):
            awaits = inspect.iscoroutinefunction(self.function)
            returned = asyncio.run(awaited()) if awaits else self.function(messages, texts, metas, **self.arguments)
        if not isinstance(returned, Sequence | np.ndarray) or isinstance(returned, str) or len(returned) != len(asked):
            got = f"{len(returned)} of them" if isinstance(returned, Sequence | np.ndarray) else repr(returned)
            raise ValueError(f"{self} must return a list of {len(asked)} judgements, one of each answer, got {got}.")
        return list(returned)

    @contextmanager
    def _noted(self, response: Response) -> Iterator[None]:
        """Add the response's id to an exception of the user's function."""
        try:
            yield
        except Exception as error:
            error.add_note(f"raised by {self} on response {response.id!r}{' and others' if self.batched else ''}")
            raise

    def _verdict(self, response: Response, returned: Any) -> Verdict:  # noqa: ANN401  # what a user's function returns
        verdict = returned if isinstance(returned, Verdict) else Verdict(returned)
        abstains = _is_abstention(verdict.utility)
        utility = {} if abstains else {"a float (or a Verdict)": verdict.utility}
        for name, value in {**utility, **verdict.aspects}.items():
            if not is_number(value):
                raise ValueError(
                    f"{self} must return {name}, finite in float32, or None for an abstention; "
                    f"for response {response.id!r} it returned {returned!r}"
                )
        aspects = {name: float(value) for name, value in verdict.aspects.items()}
        return Verdict(math.nan if abstains else float(verdict.utility), aspects)


@dataclass(frozen=True)
class RuleJudge:
    """An opened rule, or sum of rules."""

    name: str  # for errors
    judgement: Judgement

    def score(self, rollouts: Rollouts) -> Scored:
        """Score every response; responses with the same id are scored once.

        An abstention has a utility of NaN, wins of NaN against every other response, and NaN for aspects that it does
        not name. Raises ValueError, with a response's id, for a result that is no number, or has other aspects.
        """
        asked = {response.id: (prompt, response) for prompt, response in prompts_and_responses(rollouts)}
        verdicts = dict(zip(asked, self.judgement(list(asked.values())), strict=True))
        utility = by_answer(rollouts, {id: verdict.utility for id, verdict in verdicts.items()})  # [B, N]
        return Scored(
            rollouts,
            utility=utility,
            wins=by_comparison(utility),
            aspects=self._aspects(rollouts, verdicts),
            counts={"judge/queries": len(verdicts), "judge/abstained": int(np.isnan(utility).sum())},
        )

    def close(self) -> None:
        """Nothing is held."""

    def _aspects(self, rollouts: Rollouts, verdicts: Mapping[str, Verdict]) -> dict[str, np.ndarray]:
        scored = [verdict for verdict in verdicts.values() if not math.isnan(verdict.utility)]
        names = next((tuple(verdict.aspects) for verdict in scored or verdicts.values()), ())
        for id, verdict in verdicts.items():
            left_out = math.isnan(verdict.utility) and verdict.aspects.keys() < set(names)
            if not left_out and verdict.aspects.keys() != set(names):
                raise ValueError(
                    f"{self.name} must name the same aspects for every response ({', '.join(names)}); "
                    f"for response {id!r} it named {', '.join(verdict.aspects) or 'none'}"
                )
        return {
            name: by_answer(rollouts, {id: verdict.aspects.get(name, math.nan) for id, verdict in verdicts.items()})
            for name in names
        }


def _is_abstention(returned: object) -> bool:
    return returned is None or (isinstance(returned, float | np.floating) and bool(np.isnan(returned)))
