"""Which answers a judge compares: every two, or a few in rounds, where each round depends on what was said before.

A Swiss system: equals meet equals. A knockout: winners meet winners and losers meet losers, as in INPO, Zhang et al.
2024, arXiv:2407.00617. What answers are worth that did not all meet is by the model of Bradley and Terry, 1952.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np

from rlhf_flow.scorer.matches import DistinctAnswers, Match, blank, mean_win, of_responses, players, put
from rlhf_flow.types import Rollouts, Scored

PAIRS = ("all", "swiss", "knockout")
INCONSISTENT = ("average", "abstain")
NEWTON_STEPS = 40  # far more than it takes
LONGEST_STEP = 2.0  # nats
ENOUGH = 1e-12  # nats


@dataclass(frozen=True)
class PairVerdict:
    """What a judge says of a match."""

    p: float  # P(first beats second); NaN: no verdict
    mark: str | None = None  # of `Scored.marks`: why there is no verdict, or no final one


def settled(forth: float, back: float, *, inconsistent: str) -> PairVerdict:
    """Of P(the answer in the first place is better) where the first stands there, and where the second does.

    The mean of both; NaN without a verdict in one. They contradict where both prefer the same place, that is another
    answer: then it is marked, and there is no verdict where `inconsistent` is abstain.
    """
    contradict = (forth - 0.5) * (back - 0.5) > 0
    p = math.nan if contradict and inconsistent == "abstain" else (forth + 1 - back) / 2
    return PairVerdict(p, "inconsistent" if contradict else None)


# asked of all prompts at once; the first list may be empty
Ask: TypeAlias = Callable[[Sequence[Match]], Sequence[PairVerdict]]
Pair: TypeAlias = tuple[int, int]  # players


@dataclass(frozen=True, kw_only=True)
class PairSchedule:
    """The fields that all judges of pairs share.

    all       every two answers are compared: N (N - 1) / 2 matches
    swiss     in each of `rounds` rounds answers of about as many points meet, and no two meet twice: about N / 2
              matches a round; a verdict is worth the probability that it gives, and none is worth 1/2 to both
    knockout  winners play on for the best and losers for the worst: N - 1 + N / 2 - 1 matches where N is a power of
              two. A match that is tied, or has no verdict, is won by the first. With an odd number the last one plays
              on among both

    Who meets whom is a function of the set of texts and of the verdicts, and the order of the texts breaks ties. In the
    end the answers of highest and of lowest utility meet, where they have not: this ranks nobody, and only gives the
    two a verdict. A selector that may not choose one of the two, as where it drops cut answers, may be left with a pair
    that was not asked about: NaN in `wins`, with the mark `unasked`.

    The utility is the mean over j of P(i beats j), itself included as 1/2: of what the judge said under `all`, where it
    leaves out those without a verdict; otherwise of what `strengths` makes of it, for opponents differ in strength.
    """

    pairs: str = "all"  # all | swiss | knockout
    rounds: int | None = None  # of swiss; null: log2 of the number of different answers, rounded up

    def __post_init__(self) -> None:
        if self.pairs not in PAIRS:
            raise ValueError(f"scorer.pairs must be one of {', '.join(PAIRS)}, got {self.pairs!r}")
        if self.rounds is not None and (self.rounds < 1 or self.pairs != "swiss"):
            raise ValueError(
                f"scorer.rounds must be >= 1, with scorer.pairs=swiss, got {self.rounds} with "
                f"scorer.pairs={self.pairs}. Use null for as many as find the best."
            )

    def compare(self, rollouts: Rollouts, ask: Ask, *, marks: Collection[str] = ()) -> Scored:
        """Ask about the matches of all prompts, round by round. `marks` names those that the judge may give.

        Counts `judge/asked`: matches that were asked about; `judge/verdicts` and `judge/abstained`: those of them with
        a verdict and without one; and, unless all were asked about,
        `judge/spared`: those that were not. Raises ValueError where prompts have different numbers of responses.
        """
        tables = [Bracket(one, marks) for one in players(rollouts)]
        plays = [self._play(one) for one in tables]

        def turn() -> list[tuple[Bracket, Pair]]:
            return [(one, pair) for one, play in zip(tables, plays, strict=True) for pair in next(play, ())]

        matches = turn()
        while True:  # where there is nothing to ask about, the judge says so
            said = ask([one.players.match(*pair) for one, pair in matches])
            for (one, pair), what in zip(matches, said, strict=True):
                one.record(pair, what)
            if not (matches := turn()):
                return self._scored(rollouts, tables, marks)

    def _play(self, one: Bracket) -> Iterator[list[Pair]]:
        """The rounds of a prompt, none of them empty."""
        if self.pairs == "all":
            rounds = iter([one.players.every_two])
        else:
            rounds = _ranked(one, _knockout(one) if self.pairs == "knockout" else _swiss(one, self.rounds))
        yield from filter(None, rounds)

    def _scored(self, rollouts: Rollouts, tables: Sequence[Bracket], names: Collection[str]) -> Scored:
        groups = [one.players for one in tables]
        wins = of_responses(rollouts, groups, [one.wins for one in tables])  # [B, N, N]
        marks = {
            name: of_responses(rollouts, groups, [one.marks[name] for one in tables], dtype=bool) for name in names
        }
        asked = sum(int(one.met.sum() - one.players.n) // 2 for one in tables)
        abstained = sum(int((one.met & np.isnan(one.wins)).sum()) // 2 for one in tables)
        counts = {"judge/asked": asked, "judge/verdicts": asked - abstained, "judge/abstained": abstained}
        utility = mean_win(wins)
        if self.pairs != "all":
            marks["unasked"] = of_responses(rollouts, groups, [~one.met for one in tables], dtype=bool)
            counts["judge/spared"] = sum(int((~one.met).sum()) // 2 for one in tables)
            utility = np.array([one.worth[one.players.of] for one in tables], dtype=np.float32).reshape(utility.shape)
        return Scored(rollouts, utility=utility, wins=wins, pair_flags=marks, counts=counts)


@dataclass(frozen=True, kw_only=True)
class BothOrders(PairSchedule):
    """The fields that judges share who are asked about both orders of two answers."""

    inconsistent: str = "average"  # where both orders prefer the same place: their mean, or abstain. Both are counted

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.inconsistent not in INCONSISTENT:
            raise ValueError(f"scorer.inconsistent must be one of {', '.join(INCONSISTENT)}, got {self.inconsistent!r}")


class Bracket:
    """The players of a prompt, who of them has met whom, and what was said of it."""

    def __init__(self, players: DistinctAnswers, marks: Collection[str]) -> None:
        self.players = players
        self.wins = blank(players.n)
        self.met = np.eye(players.n, dtype=bool)
        self.marks = {name: np.zeros((players.n, players.n), dtype=bool) for name in marks}
        self.worth = np.full(players.n, 0.5, dtype=np.float32)  # by which they are ranked in the end

    def record(self, pair: Pair, said: PairVerdict) -> None:
        """What was said of a match: its first is the player whose text comes first."""
        i, j = sorted(pair)
        put(self.wins, i, j, said.p)
        self.met[i, j] = self.met[j, i] = True
        if said.mark is not None:
            self.marks[said.mark][[i, j], [j, i]] = True

    def standing(self) -> list[int]:
        """The players by their points, which are counted from 1/2 a match: none for who has sat out."""
        points = np.where(np.isnan(self.wins), 0.5, self.wins).sum(-1, dtype=np.float64)
        return sorted(range(self.players.n), key=lambda k: (-points[k], k))

    def final(self) -> list[Pair]:
        """Rank all; the best against the worst, where they have not met.

        The worth of each is its mean probability to beat the answers to the prompt, itself included. Of several that
        are best one goes ahead by a rounding, the first by its text, and likewise for the worst, or all would meet all.
        """
        theta = strengths(self.wins)
        share = np.bincount(self.players.of, minlength=self.players.n) / len(self.players.of)
        self.worth = (_sigmoid(theta[:, None] - theta) @ share).astype(np.float32)
        best, worst = int(self.worth.argmax()), int(self.worth.argmin())
        if best == worst:  # nobody is better than another
            return []
        self.worth[[best, worst]] = np.nextafter(self.worth[[best, worst]], np.array([1, 0], dtype=np.float32))
        return [] if self.met[best, worst] else [(best, worst)]


def strengths(wins: np.ndarray) -> np.ndarray:
    """theta [n], in nats, of which P(i beats j) = sigma(theta_i - theta_j) is likeliest to have given `wins` [n, n].

    Of the matches with a verdict, and of a draw of each with a player of strength 0: who has won all is finite then.
    That is maximum a posteriori, under the prior that is proportional to sqrt(sigma(theta) sigma(-theta)).
    """
    known = ~np.isnan(wins)
    np.fill_diagonal(known, False)
    points = np.where(known, wins, 0.0).sum(-1, dtype=np.float64) + 0.5  # [n]
    theta = np.zeros(len(wins))
    for _ in range(NEWTON_STEPS):
        p = _sigmoid(theta[:, None] - theta) * known  # [n, n]
        drawn = _sigmoid(theta)  # [n]
        slope = p * p.T  # p (1 - p)
        curvature = np.diag(slope.sum(-1) + drawn * (1 - drawn)) - slope
        step = np.linalg.solve(curvature, points - p.sum(-1) - drawn).clip(-LONGEST_STEP, LONGEST_STEP)
        theta = theta + step
        if np.abs(step).max(initial=0.0) < ENOUGH:
            break
    return theta


def _ranked(one: Bracket, rounds: Iterator[list[Pair]]) -> Iterator[list[Pair]]:
    """The rounds, and behind them the final, which ranks nobody."""
    yield from rounds
    yield one.final()


def _swiss(one: Bracket, rounds: int | None) -> Iterator[list[Pair]]:
    """From both ends of the standing to its middle, each meets the nearest whom it has not met, or sits out."""
    for _ in range((one.players.n - 1).bit_length() if rounds is None else rounds):
        waiting, pairs = one.standing(), []
        while waiting:
            first = waiting.pop(0)
            second = next((other for other in waiting if not one.met[first, other]), None)
            if second is not None:
                waiting.remove(second)
                pairs.append((first, second))
            waiting.reverse()
        yield pairs


def _knockout(one: Bracket) -> Iterator[list[Pair]]:
    """Among all at first, then among the winners and among the losers, until one of each is left."""
    winners = losers = list(range(one.players.n))
    while len(winners) > 1 or len(losers) > 1:
        yield list(dict.fromkeys(pair for left in (winners, losers) for pair in _paired(left)))
        (winners, _), (_, losers) = _outcome(one, winners), _outcome(one, losers)


def _outcome(one: Bracket, left: Sequence[int]) -> tuple[list[int], list[int]]:
    """Those who have won a match among those that are left, and those who have lost; an odd one is among both."""
    won = [(i, j) if not one.wins[i, j] < 0.5 else (j, i) for i, j in _paired(left)]
    odd = list(left[len(left) // 2 * 2 :])
    return [i for i, _ in won] + odd, [j for _, j in won] + odd


def _paired(left: Sequence[int]) -> list[Pair]:
    return list(zip(left[::2], left[1::2], strict=False))


def _sigmoid(nats: np.ndarray) -> np.ndarray:
    odds: np.ndarray = 1 / (1 + np.exp(-nats))
    return odds
