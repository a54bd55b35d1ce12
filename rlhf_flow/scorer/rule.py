"""A rule: any Python function as the judge."""

from __future__ import annotations

import hashlib
import importlib
import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TypeAlias

import numpy as np

from rlhf_flow.protocols import Place
from rlhf_flow.scorer.wins import by_answer, by_comparison
from rlhf_flow.types import Message, Prompt, Response, Rollouts, Scored, Verdict

Function: TypeAlias = Callable[[tuple[Message, ...], str, Mapping[str, object]], "float | Verdict"]
LARGEST = float(np.finfo(np.float32).max)


@dataclass(frozen=True)
class Rule:
    """A function `(prompt: tuple[Message, ...], answer: str, meta) -> float | Verdict`, higher is better.

    `answer` is what the policy said. `meta` holds the other columns of the prompt's row, and under "answer" the gold
    answer where the prompts have one. An answer of more worth wins with probability 1; exact ties get 1/2.
    """

    function: str  # "module.function", importable where the run was started

    def __post_init__(self) -> None:
        if not all(part.isidentifier() for part in self.function.split(".")) or "." not in self.function:
            raise ValueError(f"scorer.function must be written module.function, got {self.function!r}")

    @property
    def loads_model(self) -> bool:
        return False

    def fingerprint(self) -> str:
        """Hash of the source file that the function is in."""
        source = inspect.getsourcefile(_import(self.function))
        return "" if source is None else hashlib.sha256(Path(source).read_bytes()).hexdigest()

    def check(self) -> None:
        """Raise ValueError where the function cannot be imported."""
        _import(self.function)

    def open(self, place: Place) -> RuleJudge:
        """Raises ValueError where the function cannot be imported."""
        return RuleJudge(self.function, _import(self.function))


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
            returned = self.function(prompt.messages, response.text, _meta(prompt))
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


def is_number(value: object) -> bool:
    """Whether a rule may answer it: a number that is finite in float32."""
    return isinstance(value, int | float | np.integer | np.floating) and bool(np.abs(value) <= LARGEST)


def _meta(prompt: Prompt) -> Mapping[str, object]:
    if prompt.answer is None:
        return prompt.meta
    if "answer" in prompt.meta:
        raise ValueError(
            f"prompt {prompt.id!r} has a gold answer and another column called 'answer'; a rule can be given "
            "only one of them. Rename the column, or set prompts.columns.answer=answer."
        )
    return {**prompt.meta, "answer": prompt.answer}


def _import(name: str) -> Function:
    module_name, _, function_name = name.rpartition(".")
    try:
        module = importlib.import_module(module_name)
    except Exception as error:  # a user's module may raise anything while it is imported
        raise ValueError(
            f"scorer.function={name}: importing {module_name!r} failed with {type(error).__name__}: {error}. "
            "Put the folder that holds it on PYTHONPATH, or correct it."
        ) from error
    functions = {key: value for key, value in vars(module).items() if callable(value)}
    if function_name not in functions:
        found = "is not callable" if function_name in vars(module) else "is not there"
        there = ", ".join(sorted(key for key in functions if not key.startswith("_"))) or "none"
        raise ValueError(
            f"scorer.function={name}: {function_name!r} {found}; the functions of {module_name!r} are: {there}."
        )
    return functions[function_name]
