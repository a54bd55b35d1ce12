"""A Python function that compares two responses."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, ClassVar, TypeAlias

from rlhf_flow.scorer.functions.loader import check_name, check_takes, imported, is_number, meta_of, source_hash
from rlhf_flow.scorer.pair_schedule import PairSchedule, PairVerdict
from rlhf_flow.scorer.pairwise import Match
from rlhf_flow.specs import Place
from rlhf_flow.types import Message, Response, Rollouts, Scored

Function: TypeAlias = Callable[[tuple[Message, ...], str, str, Mapping[str, object]], "float | None"]
Measure: TypeAlias = Callable[[Rollouts], Mapping[str, float]]
TAKEN = {"scorer.function": ("prompt", "first", "second", "meta"), "scorer.measure": ("rollouts",)}
TOLERANCE = 1e-6  # of P(first beats second) + P(second beats first) = 1


@dataclass(frozen=True)
class Comparison(PairSchedule):
    """A function `(prompt: tuple[Message, ...], first: str, second: str, meta) -> float`: P(first beats second).

    It is called in both orders, and the two results must add up to 1; None or NaN, in either order, is an abstention.
    `meta` is that of `scorer=rule`. Equal texts tie without a call.

    `measure`, a function `(rollouts: Rollouts) -> Mapping[str, float]`, is called with all responses together. Its
    results for the held-out answers ([B][2]: the start's, then the new one) are logged as `eval/<name>`.
    """

    function: str  # "module.function", importable from the folder that the run is started in
    measure: str | None = None  # likewise

    intransitive: ClassVar[bool] = True
    loads_model: ClassVar[bool] = False

    def __post_init__(self) -> None:
        super().__post_init__()
        for key, name in self._names().items():
            check_name(key, name)

    @property
    def cache_format(self) -> str | None:
        return "pairs" if self.measure is None else None  # a measure is of all answers together

    def fingerprint(self) -> str:
        """Hash of the source files that the functions are in."""
        return source_hash({name: imported(key, name) for key, name in self._names().items()})

    def check(self) -> None:
        """Raise ValueError if a function cannot be imported, or does not take the arguments."""
        self._functions()

    def open(self, place: Place) -> ComparisonJudge:
        """Raises ValueError as `check`."""
        return ComparisonJudge(self, *self._functions())

    def _functions(self) -> list[Callable[..., Any]]:
        functions = {key: imported(key, name) for key, name in self._names().items()}
        for key, function in functions.items():
            check_takes(key, self._names()[key], function, TAKEN[key])
        return [*functions.values()]

    def _names(self) -> dict[str, str]:
        measure = {} if self.measure is None else {"scorer.measure": self.measure}
        return {"scorer.function": self.function, **measure}


@dataclass(frozen=True)
class ComparisonJudge:
    """An opened comparison."""

    spec: Comparison
    function: Function
    measure: Measure | None = None

    def score(self, rollouts: Rollouts) -> Scored:
        """Call the function in both orders for every match; that is one query.

        Raises ValueError, with the ids of the responses, if a result is no probability, or the two do not add up to 1.
        """
        counts = {"judge/queries": 0}

        def ask(matches: Sequence[Match]) -> list[PairVerdict]:
            counts["judge/queries"] += len(matches)
            return [PairVerdict(self._beats(match)) for match in matches]

        return replace(self.spec.compare(rollouts, ask, counts=counts), batch_metrics=self._measured(rollouts))

    def close(self) -> None:
        """Nothing is held."""

    def _beats(self, match: Match) -> float:
        forth = self._ask(match, match.first, match.second)
        back = self._ask(match, match.second, match.first)
        if abs(forth + back - 1) > TOLERANCE:
            raise ValueError(
                f"scorer.function={self.spec.function} must give two answers, asked in both orders, probabilities that "
                f"add up to 1; for {match} it gave {forth:g} and {back:g}. "
                "Fix: call it in both orders inside, and return (P(first, second) + 1 - P(second, first)) / 2."
            )
        return (forth + 1 - back) / 2

    def _ask(self, match: Match, first: Response, second: Response) -> float:
        try:
            returned = self.function(match.prompt.messages, first.text, second.text, meta_of(match.prompt))
        except Exception as error:
            error.add_note(f"raised by scorer.function={self.spec.function} on {match}")
            raise
        if returned is None or returned != returned:  # NaN
            return math.nan
        if not is_number(returned) or not 0 <= returned <= 1:
            raise ValueError(
                f"scorer.function={self.spec.function} must return P(first beats second), a number in [0, 1], or None "
                f"for an abstention; for {match} it returned {returned!r}"
            )
        return float(returned)

    def _measured(self, rollouts: Rollouts) -> dict[str, float]:
        if self.measure is None or not rollouts.prompts:
            return {}
        try:
            returned = self.measure(rollouts)
        except Exception as error:
            error.add_note(f"raised by scorer.measure={self.spec.measure}")
            raise
        if not isinstance(returned, Mapping) or not all(map(is_number, returned.values())):
            raise ValueError(
                f"scorer.measure={self.spec.measure} must return a mapping from names to finite numbers; "
                f"it returned {returned!r}. Fix: leave out values that cannot be computed."
            )
        return {str(name): float(value) for name, value in returned.items()}
