"""The winner of the winners against the loser of the losers. INPO, Zhang et al. 2024, arXiv:2407.00617."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from rlhf_flow.selector.best_and_worst import best_and_worst
from rlhf_flow.selector.pairing import Choice, Pairing
from rlhf_flow.types import Scored, Selection


@dataclass(frozen=True)
class Tournament(Pairing):
    """Best and worst of 2^k responses by comparisons only: 11 comparisons for 8 responses.

    The first round is 0 against 1, 2 against 3, ...; its winners go on to find the best, its losers the worst. The
    first response wins a tie and an abstention. The pair is used if the best beats the worst in the end (P > 1/2; else
    `not_beaten`), with any label. Of another number of responses (truncated ones are dropped), the first 2^k take part.
    """

    def check(self, counts: Mapping[str, int]) -> None:
        """Raise ValueError unless the number of responses per prompt is a power of two."""
        super().check(counts)
        total = self.paired(counts)
        if total & (total - 1):
            below = _players(total)
            raise ValueError(
                f"selector=tournament needs a power of two of responses per prompt, and the sampler draws {total}. "
                f"Fix: draw {below} or {2 * below}, or selector=best_and_worst."
            )

    def max_pairs(self, counts: Mapping[str, int]) -> int:
        """One pair per prompt."""
        return 1

    def select(self, scored: Scored) -> Selection:
        def choose(scored: Scored, b: int, left: list[int]) -> list[Choice]:
            wins = scored.wins[b]
            if "unasked" in scored.pair_flags and scored.pair_flags["unasked"][b].any():
                (choice,) = best_and_worst(scored, b, left)
                return [_beaten(wins, choice.first, choice.second)]
            winners, losers = _matches(wins, left[: _players(len(left))])
            while len(winners) > 1:
                winners, _ = _matches(wins, winners)
                _, losers = _matches(wins, losers)
            return [_beaten(wins, winners[0], losers[0])]

        return self.pairs(scored, choose)


def _beaten(wins: np.ndarray, best: int, worst: int) -> Choice:
    lost = wins[best, worst] <= 0.5  # False if NaN: an abstention has its own bucket
    return Choice(best, worst, refused="not_beaten" if lost else None)


def _matches(wins: np.ndarray, players: Sequence[int]) -> tuple[list[int], list[int]]:
    """Winners and losers of players 0 against 1, 2 against 3, ..."""
    winners, losers = [], []
    for one, other in zip(players[::2], players[1::2], strict=True):
        won = not wins[one, other] < 0.5
        winners.append(one if won else other)
        losers.append(other if won else one)
    return winners, losers


def _players(n: int) -> int:
    """The largest power of two that is at most n."""
    return 1 << (n.bit_length() - 1)
