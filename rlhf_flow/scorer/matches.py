"""From two answers at a time to both views: the only place where a judge of pairs becomes a table."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations

import numpy as np

from rlhf_flow.scorer.wins import answers_each
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


def matches(rollouts: Rollouts) -> list[Match]:
    """Every two texts that answer the same prompt, once: answers with the same text are judged as one, and tie.

    Raises ValueError where prompts have different numbers of responses.
    """
    answers_each(rollouts)
    return [
        Match(b, prompt, first, second)
        for b, (prompt, responses) in enumerate(zip(rollouts.prompts, rollouts.responses, strict=True))
        for first, second in combinations(_distinct(responses), 2)
    ]


def both_views(rollouts: Rollouts, beats: Sequence[float]) -> tuple[np.ndarray, np.ndarray]:
    """utility [B, N] and wins [B, N, N], float32, of P(first beats second) in each of `matches(rollouts)`.

    NaN where the judge abstained. wins + wins.T = 1 exactly; the utility is the mean over those j that i was compared
    with, itself included as 1/2, and the order of the answers does not change a bit of it.
    """
    n = answers_each(rollouts)
    wins = np.full((len(rollouts.prompts), n, n), 0.5, dtype=np.float32)
    for match, p in zip(matches(rollouts), beats, strict=True):
        texts = [response.text for response in rollouts.responses[match.b]]
        i, j = ([k for k, text in enumerate(texts) if text == one.text] for one in (match.first, match.second))
        larger = np.float32(max(p, 1 - p))  # 1 minus this one is exact, so that both add up to 1
        wins[match.b][np.ix_(i, j)] = larger if p >= 0.5 else 1 - larger
        wins[match.b][np.ix_(j, i)] = 1 - larger if p >= 0.5 else larger
    known = ~np.isnan(wins)
    # multiples of 2**-24 between 0 and 1, so the sum in float64 is exact in any order
    total = np.where(known, wins, 0.0).sum(-1, dtype=np.float64)  # [B, N]
    return (total / known.sum(-1)).astype(np.float32), wins


def _distinct(responses: Sequence[Response]) -> list[Response]:
    by_text: dict[str, Response] = {}
    for response in responses:
        by_text.setdefault(response.text, response)
    return [by_text[text] for text in sorted(by_text)]
