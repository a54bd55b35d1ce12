"""From one number per answer to P(i beats j): the only place where a judge that gives numbers becomes pairwise."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from rlhf_flow.types import Rollouts


def bradley_terry(utility: np.ndarray) -> np.ndarray:
    """sigma(u_i - u_j), float32 [B, N, N], of utilities [B, N] in nats. Bradley and Terry 1952."""
    gap = _gap(utility)  # [B, N, N]
    return np.exp(-np.logaddexp(0.0, -gap)).astype(np.float32)


def by_comparison(utility: np.ndarray) -> np.ndarray:
    """1 where i is worth more than j, 0 where less, 1/2 where exactly as much: float32 [B, N, N], of [B, N].

    A utility of NaN is an abstention: NaN against every other answer, and 1/2 against itself.
    """
    wins = ((np.sign(_gap(utility)) + 1) / 2).astype(np.float32)
    itself = np.arange(wins.shape[1])
    wins[:, itself, itself] = 0.5
    return wins


def by_answer(rollouts: Rollouts, values: Sequence[float] | Mapping[str, float]) -> np.ndarray:
    """Values in the order of the responses, or by response id, as float32 [B, N].

    Raises ValueError where prompts have different numbers of responses.
    """
    n = answers_each(rollouts)
    ordered = values
    if isinstance(values, Mapping):
        ordered = [values[response.id] for responses in rollouts.responses for response in responses]
    return np.array(ordered, dtype=np.float32).reshape(len(rollouts.prompts), n)


def answers_each(rollouts: Rollouts) -> int:
    """N, the number of responses to each prompt. Raises ValueError where prompts have different numbers of them."""
    n = len(rollouts.responses[0]) if rollouts.responses else 0
    for prompt, responses in zip(rollouts.prompts, rollouts.responses, strict=True):
        if len(responses) != n:
            raise ValueError(f"prompt {prompt.id!r} has {len(responses)} responses, others in its round have {n}")
    return n


def _gap(utility: np.ndarray) -> np.ndarray:
    wide = np.asarray(utility, dtype=np.float64)  # differences of float32 are exact in float64, so antisymmetric
    return wide[:, :, None] - wide[:, None, :]
