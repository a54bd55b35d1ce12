"""Win rates of every contestant against every other one, and their ratings."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import combinations
from pathlib import Path

import numpy as np

from rlhf_flow.config.schema import RunConfig
from rlhf_flow.evaluation.answers import Answers
from rlhf_flow.evaluation.judge import name_of, opened
from rlhf_flow.metrics.ratings import Rating, ratings
from rlhf_flow.metrics.stats import share_interval
from rlhf_flow.types import Rollouts

Interval = tuple[float, float, float]  # value, and the ends of its interval of 95 %


@dataclass(frozen=True)
class Matrix:
    """Every contestant against every other one, on the same prompts."""

    by: str  # the scorer, or the benchmark whose judgements were read
    names: tuple[str, ...]  # [K]
    prompts: tuple[str, ...]  # [B]: ids
    wins: np.ndarray  # [B, K, K]: P(the answer of i beats that of j); NaN: no verdict
    weights: np.ndarray | None = None  # [B, K, K]: the number of verdicts in each of `wins`; None: one
    measures: Mapping[str, np.ndarray] = field(default_factory=dict)  # name -> [B, K]: reward, tokens, truncated, ...
    queries: int = 0  # that the scorer counted now; kept judgements need none

    def verdicts(self, i: int, j: int) -> np.ndarray:
        """P(i beats j) on the prompts with a verdict."""
        wins = self.wins[:, i, j]
        return np.asarray(wins[~np.isnan(wins)], dtype=np.float64)

    def rate(self, i: int, j: int) -> Interval | None:
        """The win rate of i against j; None without verdicts."""
        verdicts = self.verdicts(i, j)
        if not verdicts.size:
            return None
        counts = np.ones_like(verdicts) if self.weights is None else self.weights[~np.isnan(self.wins[:, i, j]), i, j]
        return share_interval(verdicts * counts, counts)

    @property
    def ratings(self) -> list[Rating]:
        return ratings(self.wins, self.weights)


def matrix(answers: Sequence[Answers], config: RunConfig, *, out: Path) -> Matrix:
    """Compare all contestants by `config.scorer`. Judgements are kept in `out` and not made again.

    Raises ValueError if the contestants answered different prompts.
    """
    for one in answers[1:]:
        _check_same(answers[0], one)
    k, b = len(answers), len(answers[0].rollouts.prompts)
    wins, utility = no_verdicts(b, k), np.full((b, k), np.nan)
    queries = 0
    with opened(config, out) as scorer:
        for i, j in combinations(range(k), 2):
            print(f"{answers[i].name} against {answers[j].name}: judging {b} prompts", flush=True)
            scored = scorer.score(_side_by_side(answers[i], answers[j]))
            wins[:, i, j], wins[:, j, i] = scored.wins[:, 0, 1], scored.wins[:, 1, 0]
            utility[:, [i, j]] = scored.utility
            queries += scored.counts.get("judge/queries", 0)
    responses = [[group[0] for group in _in_order(answers[0], one).responses] for one in answers]
    measures = {} if config.scorer.intransitive else {"reward": utility}
    measures["tokens"] = np.array([[float(len(one.tokens)) for one in each] for each in responses]).T
    measures["truncated"] = np.array([[float(one.truncated) for one in each] for each in responses]).T
    prompts = tuple(prompt.id for prompt in answers[0].rollouts.prompts)
    return Matrix(
        name_of(config), tuple(one.name for one in answers), prompts, wins, measures=measures, queries=queries
    )


def no_verdicts(b: int, k: int) -> np.ndarray:
    """wins [B, K, K] without verdicts: NaN, and 1/2 on the diagonal."""
    wins = np.full((b, k, k), np.nan)
    wins[:, range(k), range(k)] = 0.5
    return wins


def _side_by_side(one: Answers, other: Answers) -> Rollouts:
    """[B][2], with the prompts of the first: the messages are the same."""
    groups = zip(one.rollouts.responses, _in_order(one, other).responses, strict=True)
    return replace(one.rollouts, responses=tuple((*group, *others) for group, others in groups))


def _in_order(one: Answers, other: Answers) -> Rollouts:
    """The answers of the other, in the order of the first one's prompts."""
    return Rollouts.gathered(one.rollouts.prompts, [other.rollouts], one.rollouts.round)


def _check_same(one: Answers, other: Answers) -> None:
    """Raise ValueError if two contestants did not answer the same messages."""
    asked = [{prompt.id: prompt.messages for prompt in each.rollouts.prompts} for each in (one, other)]
    if asked[0] != asked[1]:
        different = sum(asked[0].get(id) != asked[1].get(id) for id in asked[0].keys() | asked[1].keys())
        raise ValueError(
            f"prompts.max_tokens: the tokenizers of {one.name} and {other.name} leave {different} different prompts, "
            "because long ones are cut or dropped. Fix: prompts.max_tokens=N for the longest prompt."
        )
