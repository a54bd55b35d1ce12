"""A committed round in one line, for the terminal."""

from __future__ import annotations

import math
from collections.abc import Mapping

from rlhf_flow.metrics.alarms import raised
from rlhf_flow.metrics.bucket_counts import pairs, reasons
from rlhf_flow.metrics.digits import with_interval

RATES = (  # with their intervals
    ("eval/win_rate", "win rate"),
    ("eval/accuracy", "held-out accuracy"),
    ("eval/loss", "held-out loss"),
)
PARTS = (
    ("eval/reward", "judge {:.3f}"),
    ("eval/proxy", "proxy {:.3f}"),  # the training scorer, if it is not the evaluation scorer
    ("eval/proxy_gap", "gap {:+.3f}"),
    ("eval/kl", "KL {:.2f}"),
    ("eval/length", "length {:.1f}"),
    ("eval/truncated", "cut {:.1%}"),
    ("eval/distinct", "distinct {:.1%}"),
    ("train/loss", "loss {:.4f}"),
    ("train/accuracy", "accuracy {:.1%}"),
)
CAUSES = ("cut", "empty", "unclear", "failed", "capped", "inconsistent")  # of missing verdicts


def line(round: int, rounds: int | None, metrics: Mapping[str, float], *, limit: int | None = None) -> str:
    """`round 2/4 · win rate 0.712 ± 0.052 · judge 0.512 · ...`; metrics that were not measured are omitted.

    `limit`: the tokens at which an answer is truncated, if it is the same for all draws.
    """
    parts = [round_of(round, rounds)]
    if round == 0:
        parts.append("the start")
    for key, name in RATES:
        if key in metrics:
            parts.append(f"{name} {rate(metrics, key)}{doubt(metrics, key)}")
    parts += [form.format(metrics[key]) for key, form in PARTS if key in metrics]
    if (counted := pairs(metrics)) is not None:
        used, considered = counted
        why = reasons(metrics, limit=limit) if used < considered else ""
        parts.append(f"pairs {used} of {considered}" + (f" ({why})" if why else ""))
    parts += judged(metrics)
    if "seconds/round" in metrics:
        parts.append(duration(metrics["seconds/round"]))
    return " · ".join(parts)


def round_of(round: int, rounds: int | None) -> str:
    return f"round {round}" if rounds is None else f"round {round}/{rounds}"


def warnings(round: int, metrics: Mapping[str, float], *, limit: int | None = None) -> list[str]:
    """The alarms of a round, and a warning if most of its answers were truncated; each one line."""
    lines = [f"alarm {alarm.name} in round {round}: {alarm.reason}" for alarm in raised(metrics)]
    cut, sampled = metrics.get("responses/truncated", 0), metrics.get("responses/sampled", 0)
    if sampled and cut > sampled / 2:
        at = "the token limit" if limit is None else f"{limit} tokens"
        lines.append(
            f"warning: {cut:.0f} of {sampled:.0f} answers of round {round} are cut at {at}, and no pair uses them. "
            "Fix: a higher answers.max_tokens in a new run_dir."
        )
    return lines


def rate(metrics: Mapping[str, float], key: str) -> str:
    """A rate in the digits that its interval supports: `0.712 ± 0.052`."""
    return with_interval(metrics[key], metrics.get(f"{key}_low"), metrics.get(f"{key}_high"))


def doubt(metrics: Mapping[str, float], key: str) -> str:
    """` (cannot be told from 1/2 or the last round)`: what the intervals do not exclude; empty if they exclude both."""
    same = [
        what
        for what, name, value in (("1/2", key, 0.5), ("the last round", f"{key}_change", 0.0))
        if metrics.get(f"{name}_low", math.inf) <= value <= metrics.get(f"{name}_high", -math.inf)
        and metrics[f"{name}_low"] < metrics[f"{name}_high"]  # else nothing was measured: the weights are the start's
    ]
    return f" (cannot be told from {' or '.join(same)})" if same else ""


def judged(metrics: Mapping[str, float]) -> list[str]:
    """`verdicts 70/72 (2 cut, 9 inconsistent), 144 calls, cost 0.31`: of a judge that abstains or makes paid calls."""
    asked, verdicts = metrics.get("judge/asked", 0), metrics.get("judge/verdicts", 0)
    causes = {name: metrics.get(f"judge/{name}", 0) for name in CAUSES}
    calls = metrics.get("judge/calls", 0)
    if not asked or (verdicts == asked and not any(causes.values()) and not calls):
        return []
    counted = ", ".join(f"{number:.0f} {name}" for name, number in causes.items() if number)
    cost = f", cost {metrics['judge/cost_micro'] / 1e6:.2f}" if "judge/cost_micro" in metrics else ""
    paid = f", {calls:.0f} calls" if calls else ""
    return [f"verdicts {verdicts:.0f}/{asked:.0f}{f' ({counted})' if counted else ''}{paid}{cost}"]


def duration(seconds: float) -> str:
    """`0.42 s`, `41 s`, `3 min 05 s`, `2 h 07 min`; other values are shown unformatted."""
    if not 0 <= seconds < float("inf"):
        return f"{seconds} s"
    if seconds < 9.95:
        return f"{seconds:.2g} s"
    whole = int(seconds + 0.5)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60:02d} s"
    return f"{whole // 3600} h {whole % 3600 // 60:02d} min"
