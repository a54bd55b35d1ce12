"""A weighted sum of rules."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar

from rlhf_flow.scorer.functions.loader import check_name, imported, is_number, source_hash
from rlhf_flow.scorer.functions.rule import Asked, Asking, RuleJudge
from rlhf_flow.specs import Place
from rlhf_flow.types import Response, Verdict


@dataclass(frozen=True)
class Term:
    """A function as that of `scorer=rule`, and its weight."""

    function: str  # "module.function", importable from the folder that the run is started in
    weight: float = 1.0  # 0: the value is an aspect only
    name: str | None = None  # of the aspect; null: the function's name
    arguments: dict[str, Any] = field(default_factory=dict)  # further arguments of the function, by name
    batched: bool | None = None  # the function takes and returns lists, as of scorer=rule; null: one answer at a time

    @property
    def aspect(self) -> str:
        return self.function.rpartition(".")[2] if self.name is None else self.name


@dataclass(frozen=True)
class Rules:
    """Utility = sum of weight * value over the terms; each value is an aspect, under the name of its term.

    The aspects of a term's own are called `<term>/<aspect>`. If a term abstains, the sum does.
    The response of higher utility wins with probability 1; exact ties get 1/2.
    """

    terms: list[Term] = field(default_factory=list)  # each with function, weight and arguments

    intransitive: ClassVar[bool] = False
    loads_model: ClassVar[bool] = False
    cache_format: ClassVar[str] = "ranks"

    def __post_init__(self) -> None:
        for at, term in enumerate(self.terms):
            check_name(f"scorer.terms.{at}.function", term.function)
            if not math.isfinite(term.weight):
                raise ValueError(f"scorer.terms.{at}.weight must be finite, got {term.weight}")
            if not term.aspect or "/" in term.aspect:
                raise ValueError(f"scorer.terms.{at}.name must be a name without '/', got {term.name!r}")
        if all(term.weight == 0 for term in self.terms):
            raise ValueError(
                "scorer.terms must hold at least one term with a weight other than 0, got "
                f"{[term.function for term in self.terms]}. "
                "Fix: set scorer.terms=[{function: my_lab.rewards.polite, weight: 1}]."
            )
        names = [term.aspect for term in self.terms]
        if repeated := sorted({name for name in names if names.count(name) > 1}):
            raise ValueError(
                f"scorer.terms must have different names, got {', '.join(repeated)} twice. Fix: name each term."
            )

    def fingerprint(self) -> str:
        """Hash of the source files that the functions are in."""
        return source_hash(
            {
                term.function: imported(f"scorer.terms.{at}.function", term.function)
                for at, term in enumerate(self.terms)
            }
        )

    def check(self) -> None:
        """Raise ValueError if a function cannot be imported, or does not take its arguments."""
        self._sum()

    def open(self, place: Place) -> RuleJudge:
        """Raises ValueError as `check`."""
        return RuleJudge("scorer.terms", self._sum())

    def _sum(self) -> Sum:
        asked = [
            Asked.of(f"scorer.terms.{at}", term.function, term.arguments, batched=bool(term.batched))
            for at, term in enumerate(self.terms)
        ]
        return Sum(tuple(zip(self.terms, asked, strict=True)))


@dataclass(frozen=True)
class Sum:
    """The terms with their functions."""

    terms: tuple[tuple[Term, Asked], ...]

    def __call__(self, asked: Asking) -> list[Verdict]:
        """Raises ValueError, with the response's id, if float32 cannot hold the sum, and as `Asked` does."""
        by_response = zip(*(function(asked) for _, function in self.terms), strict=True)
        return [self._sum(response, verdicts) for (_, response), verdicts in zip(asked, by_response, strict=True)]

    def _sum(self, response: Response, verdicts: Sequence[Verdict]) -> Verdict:
        utility, aspects = 0.0, dict[str, float]()
        for (term, _), verdict in zip(self.terms, verdicts, strict=True):
            utility += term.weight * verdict.utility
            aspects[term.aspect] = verdict.utility
            aspects |= {f"{term.aspect}/{name}": value for name, value in verdict.aspects.items()}
        abstains = any(math.isnan(verdict.utility) for verdict in verdicts)
        if not abstains and not is_number(utility):
            raise ValueError(
                f"scorer.terms must add up to a number that is finite in float32; for response {response.id!r} they "
                f"add up to {utility:g}. Fix: lower the weights."
            )
        return Verdict(utility, aspects)
