"""From two answers at a time to both views: the only place where a judge of pairs becomes a table."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations

import numpy as np

from rlhf_flow.scorer.pairwise import answers_each
from rlhf_flow.types import Prompt, Response, Rollouts


@dataclass(frozen=True)
class Match:
    """Two different answers to the prompt of number `b`, in the order of their texts, whoever gave which."""

    b: int
    prompt: Prompt
    first: Response
    second: Response

    def __str__(self) -> str:
        return f"responses {self.first.id!r} and {self.second.id!r}"


@dataclass(frozen=True)
class DistinctAnswers:
    """The different texts that answer a prompt, in order: answers with the same text are judged as one, and tie."""

    b: int
    prompt: Prompt
    answers: tuple[Response, ...]  # [n]: one of each text
    of: np.ndarray  # [N]: the player that each response to the prompt is

    @property
    def n(self) -> int:
        return len(self.answers)

    @property
    def every_two(self) -> list[tuple[int, int]]:
        """All i < j of them."""
        return list(combinations(range(self.n), 2))

    def match(self, i: int, j: int) -> Match:
        """Of the players i and j, in the order of their texts."""
        first, second = sorted((i, j))
        return Match(self.b, self.prompt, self.answers[first], self.answers[second])


def blank(n: int) -> np.ndarray:
    """float32 [n, n] without a verdict: NaN, and 1/2 of each against itself."""
    wins = np.full((n, n), np.nan, dtype=np.float32)
    np.fill_diagonal(wins, 0.5)
    return wins


def put(wins: np.ndarray, i: int, j: int, p: float) -> None:
    """P(i beats j) = p, into float32 [n, n], such that it and P(j beats i) add up to 1 exactly."""
    larger = np.float32(max(p, 1 - p))  # 1 minus this one is exact
    wins[i, j] = larger if p >= 0.5 else 1 - larger
    wins[j, i] = 1 - larger if p >= 0.5 else larger


def players(rollouts: Rollouts) -> list[DistinctAnswers]:
    """Those of each prompt. Raises ValueError where prompts have different numbers of responses."""
    answers_each(rollouts)
    return [
        _players(b, prompt, responses)
        for b, (prompt, responses) in enumerate(zip(rollouts.prompts, rollouts.responses, strict=True))
    ]


def matches(rollouts: Rollouts) -> list[Match]:
    """Every two texts that answer the same prompt, once.

    Raises ValueError where prompts have different numbers of responses.
    """
    return [one.match(i, j) for one in players(rollouts) for i, j in one.every_two]


def both_views(rollouts: Rollouts, beats: Sequence[float]) -> tuple[np.ndarray, np.ndarray]:
    """utility [B, N] and wins [B, N, N], float32, of P(first beats second) in each of `matches(rollouts)`.

    NaN where the judge abstained. wins + wins.T = 1 exactly; `mean_win` says what the utility is, and the order of the
    answers does not change a bit of it.
    """
    groups = players(rollouts)
    tables = [blank(one.n) for one in groups]
    asked = [(table, *pair) for one, table in zip(groups, tables, strict=True) for pair in one.every_two]
    for place, p in zip(asked, beats, strict=True):
        put(*place, p)
    wins = of_responses(rollouts, groups, tables)
    return mean_win(wins), wins


def of_responses(
    rollouts: Rollouts, groups: Sequence[DistinctAnswers], tables: Sequence[np.ndarray], *, dtype: type = np.float32
) -> np.ndarray:
    """[B, N, N] of the responses, from a table [n, n] of each prompt's players."""
    n = answers_each(rollouts)
    full: np.ndarray = np.empty((len(groups), n, n), dtype=dtype)
    for b, (one, table) in enumerate(zip(groups, tables, strict=True)):
        full[b] = table[np.ix_(one.of, one.of)]
    return full


def mean_win(wins: np.ndarray) -> np.ndarray:
    """float32 [B, N]: the mean over those j that i was compared with, itself included as 1/2."""
    known = ~np.isnan(wins)
    # multiples of 2**-24 between 0 and 1, so the sum in float64 is exact in any order
    total = np.where(known, wins, 0.0).sum(-1, dtype=np.float64)  # [B, N]
    mean: np.ndarray = (total / known.sum(-1)).astype(np.float32)
    return mean


def _players(b: int, prompt: Prompt, responses: Sequence[Response]) -> DistinctAnswers:
    by_text: dict[str, Response] = {}
    for response in responses:
        by_text.setdefault(response.text, response)
    texts = sorted(by_text)
    of = np.array([texts.index(response.text) for response in responses], dtype=np.int64)
    return DistinctAnswers(b, prompt, tuple(by_text[text] for text in texts), of)
