"""Do a judge's preferences go round, or can one number for each answer explain them? Of what it said in a round.

Cyclic triads: Kendall and Babington Smith 1940. The part of preferences that no potential explains: HodgeRank, Jiang,
Lim, Yao and Ye 2011, arXiv:0811.1067. Bradley and Terry 1952 against a general preference model, which gives each
answer two numbers: Zhang et al. 2024, arXiv:2410.02197.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import NamedTuple

import numpy as np

COIN = 0.25  # cyclic triads of a coin; a judge that gives each answer a number has no more, however noisy it is
CLIP = 0.01  # a verdict that is closer to 0 or 1 than this counts as this: its log-odds are finite
NOTHING = 0.01  # nats: a smaller gain is no reason to change the method
RESAMPLES = 1000  # of the prompts, for intervals of 95 %
HELD_OUT = 1200  # pairs at most, for each is a fit of its own
STEPS = 8  # of Newton's method
ACROSS = 2.0  # standard deviation of an answer's second number around 1
SCALES = (0.5, 1.0, 4.0, 16.0)  # standard deviations to try of its first number, in nats


def measure(wins: np.ndarray) -> dict[str, float]:
    """Of wins [B, N, N], NaN where there is no verdict. What cannot be said is absent.

    triads                  triples of answers to a prompt whose three pairs were decided, so neither tied nor without a
                            verdict; absent, with the next two, where there is none
    cyclic_triads           the share of them that go round, with `_low` and `_high`. A coin gives 1/4
    hodge_residual          the share of the squared log-odds that is not a difference of two numbers: 0 of a
                            Bradley-Terry judge that gives probabilities; where verdicts are 0 or 1, (N - 2) / (3 N) of
                            one that never errs, and 1 - 2 / N of a coin, for certainty is no difference of numbers
    bradley_terry_loss      cross-entropy, in nats, of the verdicts on pairs that a fit to the other pairs of the prompt
                            has not seen; likewise `gpm_loss`. With N <= 3 no pair can be foretold, and they are absent
    gpm_gain                the first less the second, with `_low` and `_high`

    Intervals are 95 % bootstraps over prompts, of two or more. Every key stands under `intransitivity/`.
    """
    wins = np.asarray(wins, dtype=np.float64)
    decided, cyclic = triads(wins)
    found: dict[str, float] = {}
    if decided.any():
        found["triads"] = float(decided.sum())
        found |= _share("cyclic_triads", cyclic, decided)
        inside, total = hodge(wins)
        found["hodge_residual"] = float(inside.sum() / total.sum())
    if wins.shape[1] > 3 and (losses := held_out(wins)).pairs.any():
        pairs = losses.pairs.sum()
        found["bradley_terry_loss"] = float(losses.bradley_terry.sum() / pairs)
        found["gpm_loss"] = float(losses.gpm.sum() / pairs)
        found |= _share("gpm_gain", losses.bradley_terry - losses.gpm, losses.pairs)
    return {f"intransitivity/{name}": value for name, value in found.items()}


def advice(metrics: Mapping[str, float]) -> str:
    """Which methods the judge calls for, in a sentence or two, by what `measure` found."""
    found = {name.removeprefix("intransitivity/"): value for name, value in metrics.items()}
    gains = found.get("gpm_gain", 0.0) > NOTHING and found.get("gpm_gain_low", 0.0) > 0
    if gains or found.get("cyclic_triads_low", 0.0) > COIN:
        return (
            "The judge's preferences go round: no number for each answer explains them. "
            "Use a method of games, which looks for an answer that no other beats by much."
        )
    if "gpm_gain_high" not in found:
        return "Nothing can be said of cycles: that takes several prompts, each with four or more answers compared."
    if found["gpm_gain_high"] >= NOTHING:
        return "Nothing can be said of cycles yet: the interval of the gain holds both cases. Look at more rounds."
    if found["bradley_terry_loss"] > np.log(2) - NOTHING:
        return "The judge's verdicts cannot be told from a coin's, so no method learns much from them."
    return (
        "The judge's preferences are transitive within their noise. "
        "Use a method of rewards; a method of games is not needed."
    )


def triads(wins: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Of each prompt, int [B]: the decided triples of answers, and those of them that go round."""
    beats = (wins > 0.5).astype(np.float64)  # [B, N, N]; NaN is no win
    decided = beats + beats.swapaxes(1, 2)
    return _closed(decided) // 6, _closed(beats) // 3


def hodge(wins: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Of each prompt, [B]: the squared log-odds that no potential explains, and all; both 0 where no pairs make a loop.

    Log-odds and not P - 1/2, so that nothing is left of a Bradley-Terry judge. The potential is the least-squares fit
    to the pairs that have a verdict.
    """
    known = _known(wins)
    p = np.where(known, wins, 0.5).clip(CLIP, 1 - CLIP)
    odds = np.log(p) - np.log(p.swapaxes(1, 2))  # [B, N, N]
    laplacian = known.sum(-1)[:, :, None] * np.eye(wins.shape[1]) - known
    inverse = np.linalg.pinv(laplacian, hermitian=True)
    potential = (inverse @ odds.sum(-1, keepdims=True))[:, :, 0]  # [B, N]
    rest = known * (odds - potential[:, :, None] + potential[:, None, :])
    rank = np.rint(np.trace(laplacian @ inverse, axis1=1, axis2=2))
    loops = known.sum((1, 2)) / 2 > rank
    return loops * (rest**2).sum((1, 2)) / 2, loops * (odds**2).sum((1, 2)) / 2


class Losses(NamedTuple):
    """Cross-entropies of pairs that were held out, in nats, summed over the pairs of each prompt: [prompts] each."""

    bradley_terry: np.ndarray
    gpm: np.ndarray
    pairs: np.ndarray  # how many


def held_out(wins: np.ndarray) -> Losses:
    """Leave each pair out in turn, fit the others of its prompt, and foretell it: by one number for each answer or two.

    P(i beats j) = sigma(a_i b_j - b_i a_j), which is Bradley-Terry where all b are 1. Both are penalised fits: a is
    normal around 0, with whichever of a few standard deviations foretells best, and b around 1. Where there are more
    than HELD_OUT pairs, some prompts stand for all, evenly spaced.
    """
    known = _known(wins)
    each = known.sum((1, 2)) // 2  # [B]
    few = np.flatnonzero(each)[:: max(1, math.ceil(each.sum() / HELD_OUT))]
    b, i, j = np.nonzero(np.triu(known[few]))
    row = np.arange(len(b))
    verdict = wins[few][b, i, j]
    seen = known[few][b].astype(np.float64)  # [pairs, N, N]
    seen[row, i, j] = seen[row, j, i] = 0
    said = np.where(seen > 0, wins[few][b], 0.5)

    def best(start: tuple[np.ndarray, np.ndarray], *, across: float | None) -> np.ndarray:
        losses = []
        for scale in SCALES:
            odds = _odds(*_fitted(said, seen, *start, scale=scale, across=across))[row, i, j]
            losses.append(np.logaddexp(0, odds) - verdict * odds)
        return np.bincount(b, min(losses, key=np.sum), minlength=len(few))

    flat = np.zeros((len(b), wins.shape[1]))
    return Losses(
        best((flat, flat + 1), across=None), best(_plane(said), across=ACROSS), np.bincount(b, minlength=len(few))
    )


def _fitted(
    said: np.ndarray, seen: np.ndarray, a: np.ndarray, b: np.ndarray, *, scale: float, across: float | None
) -> tuple[np.ndarray, np.ndarray]:
    """The two numbers of each answer, [M, N], from a start: Levenberg's method, M fits at a time.

    `across` None keeps b as it is.
    """
    n = a.shape[1]
    weight = np.repeat([scale**-2, 0.0 if across is None else across**-2], n)
    centre = np.repeat([0.0, 1.0], n)
    free = n if across is None else 2 * n

    def loss(v: np.ndarray) -> np.ndarray:
        odds = _odds(v[:, :n], v[:, n:])
        entropy: np.ndarray = (seen * (np.logaddexp(0, odds) - said * odds)).sum((1, 2)) / 2
        return entropy + ((v - centre) ** 2 * weight).sum(-1) / 2

    v = np.concatenate([a, b], -1)  # [M, 2 N]
    now, damping = loss(v), np.full(len(v), 1e-3)
    for _ in range(STEPS):
        slope, curvature = _derivatives(said, seen, v[:, :n], v[:, n:])
        slope -= (v - centre) * weight
        curvature += np.diag(weight) + damping[:, None, None] * np.eye(2 * n)
        step = np.zeros_like(v)
        step[:, :free] = np.linalg.solve(curvature[:, :free, :free], slope[:, :free, None])[..., 0]
        then = loss(v + step)
        better = then <= now
        v, now = np.where(better[:, None], v + step, v), np.where(better, then, now)
        damping *= np.where(better, 0.2, 8.0)
    return v[:, :n], v[:, n:]


def _derivatives(said: np.ndarray, seen: np.ndarray, a: np.ndarray, b: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Of the log-likelihood by (a, b): the gradient [M, 2 N], and the Fisher information [M, 2 N, 2 N]."""
    p = 1 / (1 + np.exp(-_odds(a, b).clip(-700, 700)))
    rest, weight = seen * (said - p), seen * p * (1 - p)
    slope = np.concatenate([(rest @ b[..., None])[..., 0], -(rest @ a[..., None])[..., 0]], -1)

    def block(u: np.ndarray, v: np.ndarray) -> np.ndarray:
        own = (weight @ (u * v)[..., None]) * np.eye(a.shape[1])
        return own - weight * v[:, :, None] * u[:, None, :]

    return slope, np.block([[block(b, b), -block(b, a)], [-block(a, b), block(a, a)]])


def _plane(said: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Where a fit of two numbers starts: the largest rotation in the log-odds, turned and stretched to b around 1."""
    p = said.clip(2 * CLIP, 1 - 2 * CLIP)
    odds = (np.log(p) - np.log(p.swapaxes(1, 2))) / 2  # [M, N, N], skew
    size, vectors = np.linalg.eigh(1j * odds)
    plane = vectors[:, :, -1] * np.sqrt(2 * size[:, -1:].clip(0))
    middle = plane.sum(-1, keepdims=True)
    plane = plane * np.where(middle == 0, 1, np.conj(middle)) / np.where(middle == 0, 1, abs(middle))
    stretch = np.sqrt((plane.real**2).mean(-1, keepdims=True))
    flat = stretch < 1e-6
    return np.where(flat, 0, plane.imag * stretch), np.where(flat, 1, plane.real / np.where(flat, 1, stretch))


def _odds(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """log-odds [M, N, N] of i against j, in nats."""
    turned = a[:, :, None] * b[:, None, :]
    odds: np.ndarray = turned - turned.swapaxes(1, 2)
    return odds


def _known(wins: np.ndarray) -> np.ndarray:
    return ~np.isnan(wins) & ~np.eye(wins.shape[1], dtype=bool)


def _closed(steps: np.ndarray) -> np.ndarray:
    """int [B]: the walks of three steps that end where they began."""
    walks: np.ndarray = np.rint(np.einsum("bij,bji->b", steps @ steps, steps)).astype(np.int64)
    return walks


def _share(name: str, part: np.ndarray, whole: np.ndarray) -> dict[str, float]:
    """sum(part) / sum(whole) over prompts, with its interval where two of them have a share."""
    part, whole = part[whole > 0], whole[whole > 0]
    found = {name: float(part.sum() / whole.sum())}
    if len(whole) > 1:
        drawn = np.random.default_rng(0).multinomial(len(whole), np.full(len(whole), 1 / len(whole)), size=RESAMPLES)
        low, high = np.quantile(drawn @ part / (drawn @ whole), [0.025, 0.975])
        found |= {f"{name}_low": float(low), f"{name}_high": float(high)}
    return found
