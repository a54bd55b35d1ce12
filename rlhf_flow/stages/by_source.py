"""Metrics of each source of prompts=mixture: how many prompts and pairs it gave, and how the policy does on it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

import numpy as np

from rlhf_flow.metrics.win_rate import win_rate
from rlhf_flow.prompts.mixture import source_of
from rlhf_flow.types import Prompt, Scored, Selection


def masks(prompts: Sequence[Prompt]) -> dict[str, np.ndarray]:
    """Source -> which prompts are of it, bool [B]; empty without a mixture."""
    names = [source_of(prompt) for prompt in prompts]
    return {name: np.array([each == name for each in names]) for name in sorted({*names} - {None}, key=str) if name}


def counts(scored: Sequence[Scored], selections: Sequence[Selection]) -> dict[str, float]:
    """source/<name>/prompts, /pairs and, if the scorer gives utilities, /reward: the mean over its responses."""
    pairs = Counter(pair.prompt for selection in selections for pair in selection.pairs)
    found: dict[str, list[tuple[int, np.ndarray]]] = {}  # source -> pairs and utilities [N] of each prompt
    for shard in scored:
        for prompt, utility in zip(shard.rollouts.prompts, shard.utility, strict=True):
            if (name := source_of(prompt)) is not None:
                found.setdefault(name, []).append((pairs[prompt.id], utility))
    metrics: dict[str, float] = {}
    for name, each in sorted(found.items()):
        metrics[f"source/{name}/prompts"] = len(each)
        metrics[f"source/{name}/pairs"] = sum(number for number, _ in each)
        utilities = np.concatenate([utility for _, utility in each])
        if (known := utilities[~np.isnan(utilities)]).size:
            metrics[f"source/{name}/reward"] = float(known.mean(dtype=np.float64))
    return metrics


def win_rates(prompts: Sequence[Prompt], wins: np.ndarray) -> dict[str, float]:
    """eval/win_rate/<source> with its interval, of P(the new response wins) [B]."""
    metrics: dict[str, float] = {}
    for name, of in masks(prompts).items():
        metrics |= win_rate(f"eval/win_rate/{name}", wins[of])
    return metrics
