"""What the intervals, alarms and win rates of a run are worth, on data with known truth; and what they were in 0.1.

python scripts/proofs/intervals.py                 # all; about a minute
python scripts/proofs/intervals.py --only alarms   # coverage, alarms, knockout or average
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator

import numpy as np
import torch

from rlhf_flow.metrics.alarms import Alarms, tripped
from rlhf_flow.metrics.stats import mean_with_interval, resampled_sums, share_with_interval, sigmoid
from rlhf_flow.metrics.win_rate import gap, win_rate
from rlhf_flow.scorer.pair_schedule import PairSchedule, PairVerdict
from rlhf_flow.scorer.pairwise import Match
from rlhf_flow.selector.worth import win_rates
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
    """The slope of win rates on the true ones, if few pairs were compared."""
    for n in (4, 8, 16):
        for spread in (0.5, 1.0, 2.0):
            theta = np.random.default_rng(n).normal(0, spread, (150, n))
            scored = PairSchedule(pairs="knockout").compare(
                _answers(theta), lambda met: [PairVerdict(_p(one)) for one in met]
            )
            truth = sigmoid(theta[:, :, None] - theta[:, None, :]).mean(-1)
            old = np.nanmean(np.where(np.isnan(scored.wins), np.nan, scored.wins), axis=-1)
            slopes = [np.polyfit(truth.ravel(), one.ravel(), 1)[0] for one in (old, win_rates(scored, None))]
            yield (
                f"win rates on the truth, knockout of {n}, strengths N(0, {spread})",
                f"{slopes[0]:.2f}",
                f"{slopes[1]:.2f}",
            )


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
    print(f"{'':86}{'0.1':>26}{'now':>26}")
    for part in parser.parse_args().only:
        for what, old, new in PARTS[part]():
            print(f"{what:86}{old:>26}{new:>26}", flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
