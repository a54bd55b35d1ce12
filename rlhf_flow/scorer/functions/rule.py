"""A rule: any Python function as the judge."""

from __future__ import annotations

import asyncio
import inspect
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeAlias

import numpy as np

from rlhf_flow.scorer.functions.loader import check_name, imported, is_number, source_hash, told
from rlhf_flow.scorer.pairwise import by_answer, by_comparison
from rlhf_flow.specs import Place
from rlhf_flow.types import Prompt, Response, Rollouts, Scored, Verdict

Asking: TypeAlias = Sequence[tuple[Prompt, Response]]
Judgement: TypeAlias = Callable[[Asking], list[Verdict]]  # one of each; its utility is NaN if the function abstains
AT_ONCE = 32  # answers that an `async def` function is asked about at a time


@dataclass(frozen=True)
class Rule:
    """A function `(prompt: tuple[Message, ...], answer: str, meta, **arguments) -> float | Verdict`, higher is better.

    `answer` is what the policy said. `meta` holds the other columns of the prompt's row, and under "answer" the gold
    answer where the prompts have one. An answer of more worth wins with probability 1; exact ties get 1/2.

    None or NaN is an abstention: the answer has no utility, and neither wins nor loses. `rlhf_flow.scorer.shipped` has
    functions that need not be written. With `batched` the function takes lists, of prompts, answers and metas, and
    returns one. It may be an `async def`: then answers are asked about at the same time, or the batch is awaited.
    """

    function: str  # "module.function", importable where the run was started
    arguments: dict[str, Any] = field(default_factory=dict)  # what the function takes besides, by name
    batched: bool | None = None  # it takes and returns lists; null: one answer at a time

    def __post_init__(self) -> None:
        check_name("scorer.function", self.function)

    @property
    def intransitive(self) -> bool:
        return False  # a number for each answer

    @property
    def loads_model(self) -> bool:
        return False

    @property
    def cache_format(self) -> str:
        return "ranks"

    def fingerprint(self) -> str:
        """Hash of the source file that the function is in."""
        return source_hash(self._asked().function)

    def check(self) -> None:
        """Raise ValueError where the function cannot be imported, or does not take the arguments."""
        self._asked()

    def open(self, place: Place) -> RuleJudge:
        """As `check`."""
        asked = self._asked()
        return RuleJudge(str(asked), asked)

    def _asked(self) -> Asked:
        return Asked.of("scorer", self.function, self.arguments, batched=bool(self.batched))


@dataclass(frozen=True)
class Asked:
    """A function with its arguments."""

    key: str  # where the configuration names it
    name: str
    function: Callable[..., Any]
    arguments: Mapping[str, Any]
    batched: bool = False

    @classmethod
    def of(cls, slot: str, name: str, arguments: Mapping[str, Any], *, batched: bool = False) -> Asked:
        """The function of `<slot>.function` with `<slot>.arguments`.

        Raises ValueError where it cannot be imported, or does not take the arguments.
        """
        function = imported(f"{slot}.function", name)
        signature = inspect.signature(function)
        try:
            signature.bind(*([], [], []) if batched else ((), "", {}), **arguments)
        except TypeError as error:
            raise ValueError(
                f"{slot}.arguments must be those of {name}{signature} besides prompt, answer and meta, got "
                f"{dict(arguments)}: {error}."
            ) from error
        return cls(f"{slot}.function", name, function, arguments, batched)

    def __str__(self) -> str:
        return f"{self.key}={self.name}"

    def __call__(self, asked: Asking) -> list[Verdict]:
        """Raises ValueError, with a response's id, for anything but a finite number, a Verdict or an abstention."""
        returned = self._batch(asked) if self.batched else self._each(asked)
        return [self._verdict(response, one) for (_, response), one in zip(asked, returned, strict=True)]

    def _each(self, asked: Asking) -> list[object]:
        if not inspect.iscoroutinefunction(self.function):
            return [self._call(response, prompt.messages, response.text, told(prompt)) for prompt, response in asked]

        async def every() -> list[object]:
            free = asyncio.Semaphore(AT_ONCE)

            async def one(prompt: Prompt, response: Response) -> object:
                async with free:
                    return await self._awaited(response, prompt.messages, response.text, told(prompt))

            return list(await asyncio.gather(*(one(*both) for both in asked)))

        return asyncio.run(every())

    def _batch(self, asked: Asking) -> list[object]:
        lists = (
            [prompt.messages for prompt, _ in asked],
            [response.text for _, response in asked],
            [told(prompt) for prompt, _ in asked],
        )
        if not asked:
            return []
        first = asked[0][1]
        awaits = inspect.iscoroutinefunction(self.function)
        returned = asyncio.run(self._awaited(first, *lists)) if awaits else self._call(first, *lists)
        if not isinstance(returned, Sequence | np.ndarray) or isinstance(returned, str) or len(returned) != len(asked):
            got = f"{len(returned)} of them" if isinstance(returned, Sequence | np.ndarray) else repr(returned)
            raise ValueError(f"{self} must return a list of {len(asked)} judgements, one of each answer, got {got}.")
        return list(returned)

    def _call(self, response: Response, *given: object) -> object:
        try:
            return self.function(*given, **self.arguments)
        except Exception as error:
            error.add_note(f"raised by {self} on response {response.id!r}{' and others' if self.batched else ''}")
            raise

    async def _awaited(self, response: Response, *given: object) -> object:
        try:
            return await self.function(*given, **self.arguments)
        except Exception as error:
            error.add_note(f"raised by {self} on response {response.id!r}{' and others' if self.batched else ''}")
            raise

    def _verdict(self, response: Response, returned: Any) -> Verdict:  # noqa: ANN401  # what a user's function returns
        verdict = returned if isinstance(returned, Verdict) else Verdict(returned)
        silent = _is_silence(verdict.utility)
        worth = {} if silent else {"a float (or a Verdict)": verdict.utility}
        for what, value in {**worth, **verdict.aspects}.items():
            if not is_number(value):
                raise ValueError(
                    f"{self} must return {what}, finite in float32, or None where it abstains; "
                    f"for response {response.id!r} it returned {returned!r}"
                )
        aspects = {name: float(value) for name, value in verdict.aspects.items()}
        return Verdict(math.nan if silent else float(verdict.utility), aspects)


@dataclass(frozen=True)
class RuleJudge:
    """A rule at work."""

    name: str  # what the configuration calls it
    judgement: Judgement

    def score(self, rollouts: Rollouts) -> Scored:
        """Judge every response; of those with one id the first.

        An abstention has a utility of NaN, wins of NaN against every other answer, and aspects of NaN where it names
        none. Raises ValueError, with a response's id, for a judgement that is no number, or has other aspects.
        """
        asked = {
            response.id: (prompt, response)
            for prompt, responses in zip(rollouts.prompts, rollouts.responses, strict=True)
            for response in responses
        }
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
        judged = [verdict for verdict in verdicts.values() if not math.isnan(verdict.utility)]
        names = next((tuple(verdict.aspects) for verdict in judged or verdicts.values()), ())
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


def _is_silence(returned: object) -> bool:
    return returned is None or (isinstance(returned, float | np.floating) and bool(np.isnan(returned)))
