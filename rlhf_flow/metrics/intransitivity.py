"""Are a scorer's preferences intransitive? If they are, no scalar reward fits them.

Cyclic triads: Kendall and Babington Smith 1940. The part of the preferences that no scalar reward explains: HodgeRank,
Jiang, Lim, Yao and Ye 2011, arXiv:0811.1067.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from rlhf_flow.metrics.stats import share_interval, with_interval

COIN = 0.25  # expected share of cyclic triads of random verdicts; no Bradley-Terry scorer exceeds it
CLIP = 0.01  # verdicts are clipped to [CLIP, 1 - CLIP], so that their log-odds are finite


def measure(wins: np.ndarray) -> dict[str, float]:
    """Metrics of wins [B, N, N], NaN: no verdict. What cannot be measured is absent.

    triads           triples of responses to a prompt whose three pairs all have a winner
    cyclic_triads    the share of them that are cyclic, with `_low` and `_high`. Random verdicts give 1/4
    hodge_residual   the share of the squared log-odds that no scalar reward explains: 0 for a Bradley-Terry scorer that
                     gives probabilities. If verdicts are 0 or 1: (N - 2) / (3 N) for a consistent scorer, 1 - 2 / N for
                     random verdicts

    Intervals are of 95 %, over prompts, if there are two or more. Keys begin with `intransitivity/`.
    """
    wins = np.asarray(wins, dtype=np.float64)
    decided, cyclic = triads(wins)
    if not decided.any():
        return {}
    residual, total = hodge(wins)
    found = {"triads": float(decided.sum()), **_cyclic_share(cyclic, decided)}
    found["hodge_residual"] = float(residual.sum() / total.sum())
    return {f"intransitivity/{name}": value for name, value in found.items()}


def advice(metrics: Mapping[str, float]) -> str:
    """Which methods suit the scorer, by the metrics of `measure`."""
    low, high = (metrics.get(f"intransitivity/cyclic_triads_{end}") for end in ("low", "high"))
    if low is None or high is None:
        return "Not enough verdicts to tell whether the scorer's preferences are intransitive."
    if low > COIN:
        return (
            "The scorer's preferences are intransitive, so no scalar reward fits them. "
            "Use a Nash method (inpo, nash_md, egpo)."
        )
    if high >= COIN:
        return (
            "The share of cyclic triads cannot be told from that of random verdicts (25 %): the scorer is noisy or "
            "intransitive. Look at more rounds."
        )
    return (
        "The scorer's preferences are transitive within their noise. "
        "A method of scalar rewards suits them; a Nash method is not needed."
    )


def triads(wins: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Per prompt, int [B]: the triples of responses with three winners, and those of them that are cyclic."""
    beats = (wins > 0.5).astype(np.float64)  # [B, N, N]; NaN: False
    decided = beats + beats.swapaxes(1, 2)
    return _closed_walks(decided) // 6, _closed_walks(beats) // 3


def hodge(wins: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Per prompt, [B]: the squared log-odds that no scalar reward explains, and all; 0 if no pairs form a loop.

    The reward is the least-squares fit to the pairs with a verdict. Log-odds rather than P - 1/2, so that the residual
    of a Bradley-Terry scorer is 0.
    """
    known = ~np.isnan(wins) & ~np.eye(wins.shape[1], dtype=bool)
    p = np.where(known, wins, 0.5).clip(CLIP, 1 - CLIP)
    odds = np.log(p) - np.log(p.swapaxes(1, 2))  # [B, N, N]
    laplacian = known.sum(-1)[:, :, None] * np.eye(wins.shape[1]) - known
    inverse = np.linalg.pinv(laplacian, hermitian=True)
    reward = (inverse @ odds.sum(-1, keepdims=True))[:, :, 0]  # [B, N]
    residual = known * (odds - reward[:, :, None] + reward[:, None, :])
    rank = np.rint(np.trace(laplacian @ inverse, axis1=1, axis2=2))
    loops = known.sum((1, 2)) / 2 > rank
    return loops * (residual**2).sum((1, 2)) / 2, loops * (odds**2).sum((1, 2)) / 2


def _closed_walks(steps: np.ndarray) -> np.ndarray:
    """int [B]: the walks of three steps that end where they began."""
    walks: np.ndarray = np.rint(np.einsum("bij,bji->b", steps @ steps, steps)).astype(np.int64)
    return walks


def _cyclic_share(cyclic: np.ndarray, decided: np.ndarray) -> dict[str, float]:
    cyclic, decided = cyclic[decided > 0], decided[decided > 0]
    share = float(cyclic.sum() / decided.sum())
    if len(decided) < 2:
        return {"cyclic_triads": share}
    return with_interval("cyclic_triads", *share_interval(cyclic.astype(np.float64), decided.astype(np.float64)))
