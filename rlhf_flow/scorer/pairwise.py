"""Both views of a score: utilities [B, N] to win probabilities [B, N, N], and verdicts on pairs to both."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations

import numpy as np

from rlhf_flow.metrics.stats import sigmoid
from rlhf_flow.types import Prompt, Response, Rollouts

# -- from a utility per response --------------------------------------------------------------------------------------


def bradley_terry(utility: np.ndarray) -> np.ndarray:
    """sigma(u_i - u_j), float32 [B, N, N], of utilities [B, N] in nats. Bradley and Terry 1952."""
    return sigmoid(_gap(utility)).astype(np.float32)


def by_comparison(utility: np.ndarray) -> np.ndarray:
    """1 if u_i > u_j, 0 if u_i < u_j, 1/2 if equal: float32 [B, N, N], of utilities [B, N].

    A utility of NaN is an abstention: NaN against every other response, 1/2 against itself.
    """
    wins = ((np.sign(_gap(utility)) + 1) / 2).astype(np.float32)
    diagonal = np.arange(wins.shape[1])
    wins[:, diagonal, diagonal] = 0.5
    return wins


def by_answer(rollouts: Rollouts, values: Sequence[float] | Mapping[str, float]) -> np.ndarray:
    """Values in the order of the responses, or by response id, as float32 [B, N].

    Raises ValueError if prompts have different numbers of responses.
    """
    n = answers_each(rollouts)
    ordered = values
    if isinstance(values, Mapping):
        ordered = [values[response.id] for responses in rollouts.responses for response in responses]
    return np.array(ordered, dtype=np.float32).reshape(len(rollouts.prompts), n)


def answers_each(rollouts: Rollouts) -> int:
    """N, the number of responses per prompt. Raises ValueError if prompts have different numbers of responses."""
    n = len(rollouts.responses[0]) if rollouts.responses else 0
    for prompt, responses in zip(rollouts.prompts, rollouts.responses, strict=True):
        if len(responses) != n:
            raise ValueError(f"prompt {prompt.id!r} has {len(responses)} responses, others in its round have {n}")
    return n


def prompts_and_responses(rollouts: Rollouts) -> list[tuple[Prompt, Response]]:
    """Each response with its prompt, in order."""
    groups = zip(rollouts.prompts, rollouts.responses, strict=True)
    return [(prompt, response) for prompt, group in groups for response in group]


def _gap(utility: np.ndarray) -> np.ndarray:
    wide = np.asarray(utility, dtype=np.float64)  # differences of float32 are exact in float64, so antisymmetric
    return np.asarray(wide[:, :, None] - wide[:, None, :])


# -- from verdicts on pairs -------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Match:
    """Two different answers to prompt number `b`, in the order of their texts."""

    b: int
    prompt: Prompt
    first: Response
    second: Response

    def __str__(self) -> str:
        return f"responses {self.first.id!r} and {self.second.id!r}"


@dataclass(frozen=True)
class DistinctAnswers:
    """The distinct texts that answer a prompt, sorted. Responses with the same text are scored once, and tie."""

    b: int
    prompt: Prompt
    answers: tuple[Response, ...]  # [n]: one response per text
    index: np.ndarray  # [N]: which of `answers` each response to the prompt is

    @property
    def n(self) -> int:
        return len(self.answers)

    @property
    def pairs(self) -> list[tuple[int, int]]:
        """All i < j."""
        return list(combinations(range(self.n), 2))

    def match(self, i: int, j: int) -> Match:
        first, second = sorted((i, j))
        return Match(self.b, self.prompt, self.answers[first], self.answers[second])


def distinct_answers(rollouts: Rollouts) -> list[DistinctAnswers]:
    """One entry per prompt. Raises ValueError if prompts have different numbers of responses."""
    answers_each(rollouts)
    found = []
    for b, (prompt, responses) in enumerate(zip(rollouts.prompts, rollouts.responses, strict=True)):
        by_text: dict[str, Response] = {}
        for response in responses:
            by_text.setdefault(response.text, response)
        texts = sorted(by_text)
        index = np.array([texts.index(response.text) for response in responses], dtype=np.int64)
        found.append(DistinctAnswers(b, prompt, tuple(by_text[text] for text in texts), index))
    return found


def matches(rollouts: Rollouts) -> list[Match]:
    """Every two distinct answers to the same prompt, once.

    Raises ValueError if prompts have different numbers of responses.
    """
    return [one.match(i, j) for one in distinct_answers(rollouts) for i, j in one.pairs]


def both_views(rollouts: Rollouts, beats: Sequence[float]) -> tuple[np.ndarray, np.ndarray]:
    """utility [B, N] and wins [B, N, N], float32, of P(first beats second) for each of `matches(rollouts)`.

    NaN is an abstention. wins + wins.T = 1 exactly; the utility is `mean_win`. The order of the responses changes no
    bit of either.
    """
    groups = distinct_answers(rollouts)
    tables = [empty_table(one.n) for one in groups]
    cells = [(table, *pair) for one, table in zip(groups, tables, strict=True) for pair in one.pairs]
    for cell, p in zip(cells, beats, strict=True):
        put(*cell, p)
    wins = of_responses(rollouts, groups, tables)
    return mean_win(wins), wins


def empty_table(n: int) -> np.ndarray:
    """float32 [n, n] without verdicts: NaN, and 1/2 on the diagonal."""
    wins = np.full((n, n), np.nan, dtype=np.float32)
    np.fill_diagonal(wins, 0.5)
    return wins


def put(wins: np.ndarray, i: int, j: int, p: float) -> None:
    """Set wins[i, j] = p in float32 [n, n] so that wins[i, j] + wins[j, i] = 1 exactly."""
    larger = np.float32(max(p, 1 - p))  # 1 minus this one is exact
    wins[i, j], wins[j, i] = (larger, 1 - larger) if p >= 0.5 else (1 - larger, larger)


def of_responses(
    rollouts: Rollouts, groups: Sequence[DistinctAnswers], tables: Sequence[np.ndarray], *, dtype: type = np.float32
) -> np.ndarray:
    """[B, N, N] by response, from a table [n, n] by distinct answer for each prompt."""
    n = answers_each(rollouts)
    full: np.ndarray = np.empty((len(groups), n, n), dtype=dtype)
    for b, (one, table) in enumerate(zip(groups, tables, strict=True)):
        full[b] = table[np.ix_(one.index, one.index)]
    return full


def mean_win(wins: np.ndarray) -> np.ndarray:
    """float32 [B, N]: the mean of wins[b, i, j] over the j with a verdict, i itself included as 1/2."""
    known = ~np.isnan(wins)
    # multiples of 2**-24 between 0 and 1, so the sum in float64 is exact in any order
    total = np.where(known, wins, 0.0).sum(-1, dtype=np.float64)  # [B, N]
    return np.asarray((total / known.sum(-1)).astype(np.float32))
