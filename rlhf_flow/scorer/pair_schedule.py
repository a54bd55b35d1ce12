"""Which pairs of answers a scorer compares: all of them, or those of a knockout.

In a knockout winners meet winners and losers meet losers, as in INPO, Zhang et al. 2024, arXiv:2407.00617. Answers
that did not all meet are ranked by the model of Bradley and Terry, 1952.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np

from rlhf_flow.metrics.strengths import imputed
from rlhf_flow.scorer.fields import check_fields
from rlhf_flow.scorer.pairwise import (
    DistinctAnswers,
    Match,
    distinct_answers,
    empty_table,
    mean_win,
    of_responses,
    put,
)
from rlhf_flow.types import Rollouts, Scored

PAIRS = ("all", "knockout")
INCONSISTENT = ("average", "abstain")


@dataclass(frozen=True)
class PairVerdict:
    """A scorer's verdict on a match."""

    p: float  # P(first beats second); NaN: no verdict
    mark: str | None = None  # flag in `Scored.pair_flags`


def settled(forth: float, back: float, *, inconsistent: str) -> PairVerdict:
    """Combine both orders. `forth`, `back`: P(the answer shown first is better), with the match's first answer shown
    first and second.

    The mean of both; NaN if one of them is NaN. If both prefer the same position, the verdict is flagged, and NaN with
    inconsistent=abstain.
    """
    contradict = (forth - 0.5) * (back - 0.5) > 0
    p = math.nan if contradict and inconsistent == "abstain" else (forth + 1 - back) / 2
    return PairVerdict(p, "inconsistent" if contradict else None)


Ask: TypeAlias = Callable[[Sequence[Match]], Sequence[PairVerdict]]  # for all prompts at once; first call may be empty
Pair: TypeAlias = tuple[int, int]  # indices into DistinctAnswers.answers


@dataclass(frozen=True, kw_only=True)
class PairSchedule:
    """The fields that all pairwise scorers share.

    all       compares every two answers: N (N - 1) / 2 matches
    knockout  compares winners with winners for the best, losers with losers for the worst: N - 1 + N / 2 - 1 matches
              if N is a power of two. A tie or an abstention counts as a win of the first; with an odd number the last
              answer advances in both brackets

    The schedule is a function of the set of texts and of the verdicts; the order of the texts breaks ties. At the end
    the answers of highest and lowest utility meet if they have not. Pairs that were not compared are NaN in `wins`,
    with the flag `unasked`.

    The utility is the mean over j of P(i beats j), itself included as 1/2, leaving out abstentions under `all`. Under
    `knockout`, where opponents differ in strength, pairs that were not compared have the probability of the fitted
    strengths.
    """

    pairs: str = "all"  # all | knockout

    @property
    def gives_probabilities(self) -> bool:
        """Whether verdicts are probabilities. From few verdicts of 0 or 1, win rates shrink to 1/2."""
        return True

    def __post_init__(self) -> None:
        check_fields(self, ("pairs", f"one of {', '.join(PAIRS)}", self.pairs in PAIRS))

    def compare(
        self, rollouts: Rollouts, ask: Ask, *, marks: Collection[str] = (), counts: Mapping[str, int] | None = None
    ) -> Scored:
        """Ask about the matches of all prompts, round by round.

        `marks`: the flags that verdicts may carry. `counts`: the scorer's own, which `ask` may change; added are
        `judge/asked` (matches), `judge/verdicts` and `judge/abstained` of them, and under `knockout` `judge/spared`
        (pairs not compared). Raises ValueError if prompts have different numbers of responses.
        """
        brackets = [Bracket(one, marks) for one in distinct_answers(rollouts)]
        rounds = [self._rounds(one) for one in brackets]

        def next_round() -> list[tuple[Bracket, Pair]]:
            return [(one, pair) for one, play in zip(brackets, rounds, strict=True) for pair in next(play, ())]

        asked = next_round()
        while True:  # at least once, so that the scorer reports its counts
            verdicts = ask([one.answers.match(*pair) for one, pair in asked])
            for (one, pair), verdict in zip(asked, verdicts, strict=True):
                one.record(pair, verdict)
            if not (asked := next_round()):
                return self._scored(rollouts, brackets, marks, counts or {})

    def _rounds(self, one: Bracket) -> Iterator[list[Pair]]:
        """The non-empty rounds of a prompt."""
        if self.pairs == "all":
            yield from filter(None, [one.answers.pairs])
        else:
            yield from filter(None, _knockout(one))
            yield from filter(None, [one.final()])

    def _scored(
        self, rollouts: Rollouts, brackets: Sequence[Bracket], names: Collection[str], own: Mapping[str, int]
    ) -> Scored:
        groups = [one.answers for one in brackets]

        def flags(tables: Sequence[np.ndarray]) -> np.ndarray:
            return of_responses(rollouts, groups, tables, dtype=bool)

        wins = of_responses(rollouts, groups, [one.wins for one in brackets])  # [B, N, N]
        pair_flags = {name: flags([one.marks[name] for one in brackets]) for name in names}
        asked = sum(int(one.met.sum() - one.answers.n) // 2 for one in brackets)
        abstained = sum(int((one.met & np.isnan(one.wins)).sum()) // 2 for one in brackets)
        counts = {**own, "judge/asked": asked, "judge/verdicts": asked - abstained, "judge/abstained": abstained}
        utility = mean_win(wins)
        if self.pairs != "all":
            pair_flags["unasked"] = flags([~one.met for one in brackets])
            counts["judge/spared"] = sum(int((~one.met).sum()) // 2 for one in brackets)
            utility = np.array([one.worth[one.answers.index] for one in brackets], np.float32).reshape(utility.shape)
        return Scored(rollouts, utility=utility, wins=wins, pair_flags=pair_flags, counts=counts)


@dataclass(frozen=True, kw_only=True)
class BothOrders(PairSchedule):
    """The fields of pairwise scorers that are asked in both orders."""

    inconsistent: str = "average"  # average | abstain, if both orders prefer the same position; both are counted

    def __post_init__(self) -> None:
        super().__post_init__()
        allowed = f"one of {', '.join(INCONSISTENT)}"
        check_fields(self, ("inconsistent", allowed, self.inconsistent in INCONSISTENT))


class Bracket:
    """The distinct answers to a prompt, which of them have met, and the verdicts."""

    def __init__(self, answers: DistinctAnswers, marks: Collection[str]) -> None:
        self.answers = answers
        self.wins = empty_table(answers.n)
        self.met = np.eye(answers.n, dtype=bool)
        self.marks = {name: np.zeros((answers.n, answers.n), dtype=bool) for name in marks}
        self.worth = np.full(answers.n, 0.5, dtype=np.float32)  # utility after `final`

    def record(self, pair: Pair, verdict: PairVerdict) -> None:
        i, j = sorted(pair)
        put(self.wins, i, j, verdict.p)
        self.met[i, j] = self.met[j, i] = True
        if verdict.mark is not None:
            self.marks[verdict.mark][[i, j], [j, i]] = True

    def final(self) -> list[Pair]:
        """Rank the answers; return the pair of the best and the worst if they have not met.

        The worth of an answer is its mean probability to beat the responses to the prompt, itself included. Among
        several best (or worst) answers the first by text is moved by one ulp, so that selectors pick the pair that met.
        """
        share = np.bincount(self.answers.index, minlength=self.answers.n) / len(self.answers.index)
        self.worth = (imputed(self.wins, np.isnan(self.wins)) @ share).astype(np.float32)
        best, worst = int(self.worth.argmax()), int(self.worth.argmin())
        if best == worst:  # all are equal
            return []
        self.worth[[best, worst]] = np.nextafter(self.worth[[best, worst]], np.array([1, 0], dtype=np.float32))
        return [] if self.met[best, worst] else [(best, worst)]


def _knockout(one: Bracket) -> Iterator[list[Pair]]:
    """All answers first, then the winners' and the losers' brackets, until one answer is left in each."""
    winners = losers = list(range(one.answers.n))
    while len(winners) > 1 or len(losers) > 1:
        yield list(dict.fromkeys(pair for left in (winners, losers) for pair in _paired(left)))
        (winners, _), (_, losers) = _outcome(one, winners), _outcome(one, losers)


def _outcome(one: Bracket, left: Sequence[int]) -> tuple[list[int], list[int]]:
    """Winners and losers among those left in a bracket; an odd one is in both."""
    won = [(i, j) if not one.wins[i, j] < 0.5 else (j, i) for i, j in _paired(left)]
    odd = list(left[len(left) // 2 * 2 :])
    return [i for i, _ in won] + odd, [j for _, j in won] + odd


def _paired(left: Sequence[int]) -> list[Pair]:
    return list(zip(left[::2], left[1::2], strict=False))
