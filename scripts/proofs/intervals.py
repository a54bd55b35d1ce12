"""What the intervals, alarms and win rates of a run are worth, on data with known truth; and what they were in 0.1.

python scripts/proofs/intervals.py                 # all; about four minutes
python scripts/proofs/intervals.py --only alarms   # coverage, alarms, knockout or average
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import torch

from rlhf_flow.metrics.alarms import THRESHOLDS, Alarms, tripped
from rlhf_flow.metrics.stats import mean_with_interval, resampled_sums, share_with_interval, sigmoid, with_interval
from rlhf_flow.metrics.win_rate import gap, length_drift, win_rate
from rlhf_flow.scorer.pair_schedule import Ask, PairSchedule, PairVerdict
from rlhf_flow.scorer.pairwise import Match
from rlhf_flow.selector.worth import log_odds, win_rates
from rlhf_flow.types import Message, Prompt, Response, Rollouts, SamplingParams

RUNS, ROUNDS = 200, 30
Line = tuple[str, str, str]  # what, in 0.1, now


def coverage() -> Iterator[Line]:
    """How often an interval of 95 % covers the truth, and how often it has no width."""
    rng = np.random.default_rng(0)
    for n in (16, 32, 128):
        for name, truth, drawn in _verdicts(rng, n):
            new = [win_rate("w", wins) for wins in drawn]
            old = np.array([np.quantile(resampled_sums(wins, seed=0) / n, [0.025, 0.975]) for wins in drawn[:300]])
            covers = np.mean([one["w_low"] <= truth <= one["w_high"] for one in new])
            empty = np.mean([one["w_low"] == one["w_high"] for one in new])
            before = np.mean((old[:, 0] <= truth) & (truth <= old[:, 1])), np.mean(old[:, 0] == old[:, 1])
            yield (
                f"interval covers, {n} prompts, {name}",
                f"{before[0]:.3f}, no width in {before[1]:.2f}",
                f"{covers:.3f}, no width in {empty:.2f}",
            )


def _verdicts(rng: np.random.Generator, n: int) -> Iterator[tuple[str, float, np.ndarray]]:
    """Kinds of verdicts: their true mean, and 1000 evaluations of n prompts."""
    for p in (0.5, 0.9, 0.95):
        yield f"verdicts of 0 or 1, p={p}", p, (rng.random((1000, n)) < p).astype(float)
    for mean, spread in ((3, 1), (5, 3)):
        truth = float(sigmoid(rng.normal(mean, spread, 10**6)).mean())
        yield f"probabilities, log-odds N({mean}, {spread})", truth, sigmoid(rng.normal(mean, spread, (1000, n)))


def alarms() -> Iterator[Line]:
    """How many runs of 30 rounds whose policy does not change trip an alarm; and how many notice a drop."""
    for n, p in ((16, 0.9), (32, 0.9), (32, 0.7), (128, 0.9)):
        new, old = np.mean([_rings(n, p, seed) for seed in range(RUNS)], axis=0)
        yield f"win_rate_drop in {ROUNDS} unchanged rounds, {n} prompts, p={p}", f"{old:.2f}", f"{new:.2f}"
    for at, rounds, p in ((3, 6, 0.9), (5, 10, 0.9), (10, 30, 0.9), (5, 10, 0.7)):
        rings = [_rings(128, p, seed, fall=0.15, at=at, rounds=rounds) for seed in range(RUNS)]
        new, old = np.mean(rings, axis=0)
        what = f"win_rate_drop notices {p} to {p - 0.15:.2f} after round {at} of {rounds}, 128 prompts"
        yield what, f"{old:.2f}", f"{new:.2f}"
    yield from _lengths_drift()
    yield from _few_texts_and_near_certain_wins()
    for n in (16, 32):
        found = [_others(n, seed) for seed in range(RUNS)]
        for name in ("truncated_rise", "repetition_rise", "mass_fall", "entropy_fall", "proxy_gap", "kl"):
            old, new = (np.mean([name in each[when] for each in found]) for when in (0, 1))
            yield f"{name} in {ROUNDS} unchanged rounds, {n} prompts", f"{old:.2f}", f"{new:.2f}"


def _rings(
    n: int, p: float, seed: int, *, fall: float = 0.0, at: int = ROUNDS, rounds: int = ROUNDS
) -> tuple[bool, bool]:
    """Whether the alarm rings, now and by the rule of 0.1: bootstrap intervals that are 0.05 apart."""
    rng = np.random.default_rng(seed)
    each = np.clip(rng.normal(p, 0.1, n), 0.02, 0.98)  # prompts differ in difficulty
    verdicts = [(rng.random(n) < (each if round < at else each - fall)).astype(float) for round in range(rounds)]
    history, rang, best_low, rang_before = [], False, 0.0, False
    rates = [one.mean() for one in verdicts]
    comparisons = (rounds + 1) * rounds / 2
    for round, wins in enumerate(verdicts):
        metrics = win_rate("eval/win_rate", wins)
        if round:
            best = verdicts[int(np.argmax(rates[:round]))]
            metrics |= gap("eval/win_rate_drop", best, wins, confidence=1 - 0.05 / comparisons)
        history.append(metrics)
        rang |= any(alarm.name == "win_rate_drop" for alarm in tripped(history, Alarms()))
        low, high = np.quantile(resampled_sums(wins, seed=0) / n, [0.025, 0.975])
        rang_before |= best_low - high > 0.05
        best_low = max(best_low, low)
    return rang, rang_before


def _lengths_drift() -> Iterator[Line]:
    """`length_drift` on log-normal lengths; a quarter of their variance is that of the prompts."""
    for n, sigma in ((16, 0.8), (16, 1.2), (32, 0.8), (32, 1.2)):
        old = np.mean([any(_drifts(_lengths(n, sigma, seed), _by_resampling)) for seed in range(RUNS // 2)])
        new = np.mean([any(_drifts(_lengths(n, sigma, seed), length_drift)) for seed in range(10 * RUNS)])
        yield f"length_drift in {ROUNDS} unchanged rounds, {n} prompts, sigma={sigma}", f"{old:.2f}", f"{new:.3f}"
    for drift, rounds in ((1.5, ROUNDS), (1.5, 10), (2.0, 10), (1 / 1.5, ROUNDS)):
        for sigma in (0.8, 1.2):
            runs = [_lengths(128, sigma, seed, drift=drift, rounds=rounds) for seed in range(RUNS)]
            old = np.mean([any(_drifts(run, _by_resampling)) for run in runs[: RUNS // 4]])
            new = np.mean([any(_drifts(run, length_drift)) for run in runs])
            what = f"length_drift notices {drift:.2f} times after round 5 of {rounds}, 128 prompts, sigma={sigma}"
            yield what, f"{old:.2f}", f"{new:.2f}"


def _lengths(n: int, sigma: float, seed: int, *, drift: float = 1.0, rounds: int = ROUNDS) -> np.ndarray:
    """[rounds + 1, n]: of the start's responses, then of each round's; after round 5 `drift` times as long."""
    rng = np.random.default_rng(seed)
    prompts = rng.normal(4, sigma / 2, n)
    drawn = np.exp(rng.normal(prompts, sigma * 0.75**0.5, (rounds + 1, n)))
    drawn[6:] *= drift
    return np.maximum(1, drawn.round())


def _drifts(lengths: np.ndarray, measure: Callable[..., dict[str, float]]) -> Iterator[bool]:
    """Whether the alarm rings, round by round."""
    start, *news = lengths
    for new in news:
        metrics = measure("eval/length_drift", start, new, confidence=1 - 0.05 / len(lengths))
        yield any(alarm.name == "length_drift" for alarm in tripped([metrics], Alarms()))


def _by_resampling(name: str, start: np.ndarray, new: np.ndarray, *, confidence: float) -> dict[str, float]:
    """As in 0.1: the whole interval of 95 % of the ratio of the mean lengths must be beyond the threshold."""
    starts, news = resampled_sums(np.stack([start, new]), seed=0)
    low, high = np.quantile(news / starts, [0.025, 0.975])
    return with_interval(name, low if low > 1 else high, low, high)


def _few_texts_and_near_certain_wins() -> Iterator[Line]:
    """`distinct_fall`, whose rule is that of 0.1, and `saturated`, in rounds of an unchanged policy."""
    for n in (16, 32, 128):
        for texts in (4, 16, 64):  # that the policy writes, equally often
            drawn = [np.random.default_rng(seed).integers(0, texts, (ROUNDS, n)) for seed in range(RUNS)]
            shares = [[{"eval/distinct": len(set(one)) / n} for one in each.tolist()] for each in drawn]
            rang = f"{_ring('distinct_fall', shares):.3f}"
            yield f"distinct_fall in {ROUNDS} unchanged rounds, {n} prompts, {texts} texts", rang, rang
    far = {"eval/kl": 25.0, "eval/length": 60.0}
    for n in (16, 32, 128):
        for rate, spread in ((0.9, None), (0.95, None), (0.97, 1.0)):
            rng = np.random.default_rng(n)
            verdicts = _rates(rng, rate, spread, (RUNS, ROUNDS, n))
            runs = [[far | win_rate("eval/win_rate", one) for one in each] for each in verdicts]
            kind = "verdicts of 0 or 1" if spread is None else "probabilities"
            old = np.mean([any(one["eval/win_rate_low"] > 0.98 for one in each) for each in runs])
            what = f"saturated in {ROUNDS} unchanged rounds, {n} prompts, {kind}, mean {rate}"
            yield what, f"{old:.3f}", f"{_ring('saturated', runs):.3f}"


def _rates(rng: np.random.Generator, mean: float, spread: float | None, shape: tuple[int, ...]) -> np.ndarray:
    """Verdicts of 0 or 1 with this mean; or probabilities whose log-odds are normal with this spread."""
    if spread is None:
        return (rng.random(shape) < mean).astype(float)
    odds = rng.normal(0, spread, 10**5)
    centre = min(np.linspace(0, 8, 801), key=lambda each: abs(float(sigmoid(odds + each).mean()) - mean))
    return sigmoid(rng.normal(centre, spread, shape))


def _ring(name: str, runs: list[list[dict[str, float]]]) -> float:
    """The share of runs in which the alarm trips in any round."""
    others: dict[str, Any] = {each: None for each in THRESHOLDS if each != name}
    alone = Alarms(**others)
    return float(np.mean([any(tripped(run[: at + 1], alone) for at in range(len(run))) for run in runs]))


def _others(n: int, seed: int) -> tuple[set[str], set[str]]:
    """The alarms that ring in rounds of an unchanged policy: without intervals, as in 0.1, and with them."""
    rng = np.random.default_rng(seed)
    history: list[dict[str, float]] = []
    found: tuple[set[str], set[str]] = set(), set()
    for _ in range(ROUNDS):
        metrics = {"eval/length": 60.0}
        metrics |= share_with_interval("eval/truncated", (rng.random(n) < 0.4).astype(float))
        metrics |= share_with_interval("eval/repetition", np.where(rng.random(n) < 0.2, rng.random(n), 0.02))
        metrics |= mean_with_interval("eval/topk_mass", np.clip(rng.normal(0.85, 0.06, n), 0, 1))
        metrics |= mean_with_interval("eval/topk_entropy", rng.gamma(4, 0.25, n))
        metrics |= mean_with_interval("eval/kl", rng.normal(25, 15, n))
        verdicts = [(rng.random(n) < 0.8).astype(float) for _ in range(2)]
        metrics |= gap("eval/proxy_gap", *verdicts)
        history.append(metrics)
        bare = [
            {key: value for key, value in one.items() if "_low" not in key and "_high" not in key} for one in history
        ]
        bare = [
            one | {"eval/proxy_gap_low": full["eval/proxy_gap_low"]} for one, full in zip(bare, history, strict=True)
        ]
        for when, rounds in enumerate((bare, history)):
            found[when].update(alarm.name for alarm in tripped(rounds, Alarms()))
    return found


def knockout() -> Iterator[Line]:
    """The slope of win rates and log-odds on the true ones, if few pairs were compared."""
    for n in (4, 8, 16):
        for spread in (0.5, 1.0, 2.0):
            theta = np.random.default_rng(n).normal(0, spread, (150, n))
            gaps = theta[:, :, None] - theta[:, None, :]  # [B, N, N]
            for kind, ask in (("probabilities", _sure), ("verdicts of 0 or 1", _drawn(np.random.default_rng(n)))):
                scored = PairSchedule(pairs="knockout").compare(_answers(theta), ask)
                alone = replace(scored, pair_flags={})  # of the verdicts alone
                of = {"win rates": (sigmoid(gaps), win_rates(alone, None), win_rates(scored, None))}
                of["utilities"] = (sigmoid(gaps), win_rates(alone, None), scored.utility)
                if ask is _sure:
                    of["log-odds"] = (gaps, log_odds(alone, None), log_odds(scored, None))
                for what, (truth, old, new) in of.items():
                    before, now = (np.polyfit(truth.mean(-1).ravel(), one.ravel(), 1)[0] for one in (old, new))
                    yield (
                        f"{what} on the truth, knockout of {n}, strengths N(0, {spread}), {kind}",
                        f"{before:.2f}",
                        f"{now:.2f}",
                    )


def _sure(met: Sequence[Match]) -> list[PairVerdict]:
    return [PairVerdict(_p(one)) for one in met]


def _drawn(rng: np.random.Generator) -> Ask:
    """Verdicts of 0 or 1 that are drawn with the true probabilities."""
    return lambda met: [PairVerdict(float(rng.random() < _p(one))) for one in met]


def _answers(theta: np.ndarray) -> Rollouts:
    """A prompt for each row; the text of an answer is its strength."""
    draw = SamplingParams(n=theta.shape[1])
    prompts = tuple(Prompt(str(b), (Message("user", ""),), (1,)) for b in range(len(theta)))

    def response(b: int, k: int) -> Response:
        return Response(f"1/policy/{k}/{b}", np.zeros(1, np.int32), f"{theta[b, k]:.9f}", None, False, draw, k, "")

    return Rollouts(1, prompts, tuple(tuple(response(b, k) for k in range(theta.shape[1])) for b in range(len(theta))))


def _p(match: Match) -> float:
    return float(sigmoid(float(match.first.text) - float(match.second.text)))


def average() -> Iterator[Line]:
    """The share of the way to a policy that stays, which a moving average covers in 100 rounds at decay 0.9."""
    generator = torch.Generator().manual_seed(0)
    start = torch.full((1000,), 0.5)
    end = start + 2**-8 * torch.randint(1, 5, (1000,), generator=generator)  # some steps of bfloat16
    for published in (torch.float32, torch.bfloat16):
        shares = []
        for held in (published, torch.float32):  # in 0.1 in the published dtype, now in float32
            ema = start.to(held)
            for _ in range(100):
                ema = (0.9 * ema.float() + 0.1 * end).to(held)
            shares.append(1 - float((end - ema.float()).norm() / (end - start).norm()))
        yield f"moving average of {published}, of the way".replace("torch.", ""), f"{shares[0]:.3f}", f"{shares[1]:.3f}"


PARTS = {"coverage": coverage, "alarms": alarms, "knockout": knockout, "average": average}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", choices=PARTS, nargs="+", default=list(PARTS))
    print(f"{'':92}{'0.1':>26}{'now':>26}")
    for part in parser.parse_args().only:
        for what, old, new in PARTS[part]():
            print(f"{what:92}{old:>26}{new:>26}", flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
