"""A rule: any Python function as the judge."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np

from rlhf_flow.scorer.function import check_name, imported, is_number, source_hash, told
from rlhf_flow.scorer.wins import by_answer, by_comparison
from rlhf_flow.specs import Place
from rlhf_flow.types import Message, Prompt, Response, Rollouts, Scored, Verdict

Function: TypeAlias = Callable[[tuple[Message, ...], str, Mapping[str, object]], "float | Verdict"]


@dataclass(frozen=True)
class Rule:
    """A function `(prompt: tuple[Message, ...], answer: str, meta) -> float | Verdict`, higher is better.

    `answer` is what the policy said. `meta` holds the other columns of the prompt's row, and under "answer" the gold
    answer where the prompts have one. An answer of more worth wins with probability 1; exact ties get 1/2.
    """

    function: str  # "module.function", importable where the run was started

    def __post_init__(self) -> None:
        check_name("scorer.function", self.function)

    @property
    def can_cycle(self) -> bool:
        return False  # a number for each answer

    @property
    def loads_model(self) -> bool:
        return False

    def fingerprint(self) -> str:
        """Hash of the source file that the function is in."""
        return source_hash(self._function())

    def check(self) -> None:
        """Raise ValueError where the function cannot be imported."""
        self._function()

    def open(self, place: Place) -> RuleJudge:
        """Raises ValueError where the function cannot be imported."""
        return RuleJudge(self.function, self._function())

    def _function(self) -> Function:
        return imported("scorer.function", self.function)


@dataclass(frozen=True)
class RuleJudge:
    """A rule at work."""

    name: str
    function: Function

    def score(self, rollouts: Rollouts) -> Scored:
        """Call the function once per response.

        Raises ValueError, with the response's id, where it returns anything but a finite number or a Verdict of such.
        """
        verdicts = {
            response.id: self._verdict(prompt, response)
            for prompt, responses in zip(rollouts.prompts, rollouts.responses, strict=True)
            for response in responses
        }
        utility = by_answer(rollouts, {id: verdict.utility for id, verdict in verdicts.items()})  # [B, N]
        return Scored(
            rollouts,
            utility=utility,
            wins=by_comparison(utility),
            aspects=self._aspects(rollouts, verdicts),
            counts={"judge/queries": len(verdicts)},
        )

    def close(self) -> None:
        """Nothing is held."""

    def _verdict(self, prompt: Prompt, response: Response) -> Verdict:
        try:
            returned = self.function(prompt.messages, response.text, told(prompt))
        except Exception as error:
            error.add_note(f"raised by scorer.function={self.name} on response {response.id!r}")
            raise
        verdict = returned if isinstance(returned, Verdict) else Verdict(returned)
        for what, value in {"a float (or a Verdict)": verdict.utility, **verdict.aspects}.items():
            if not is_number(value):
                raise ValueError(
                    f"scorer.function={self.name} must return {what}, finite in float32; "
                    f"for response {response.id!r} it returned {returned!r}"
                )
        return Verdict(float(verdict.utility), {name: float(value) for name, value in verdict.aspects.items()})

    def _aspects(self, rollouts: Rollouts, verdicts: Mapping[str, Verdict]) -> dict[str, np.ndarray]:
        names = next((tuple(verdict.aspects) for verdict in verdicts.values()), ())
        for id, verdict in verdicts.items():
            if verdict.aspects.keys() != set(names):
                raise ValueError(
                    f"scorer.function={self.name} must name the same aspects for every response ({', '.join(names)}); "
                    f"for response {id!r} it named {', '.join(verdict.aspects) or 'none'}"
                )
        return {
            name: by_answer(rollouts, {id: verdict.aspects[name] for id, verdict in verdicts.items()}) for name in names
        }
