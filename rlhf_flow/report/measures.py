"""What a report shows of a run: each measure with its title, its colour and the least span of its axis.

A colour stands for the part of the system that a number comes from, over the whole page:

eval    the judge of the evaluation
train   the judge of training
policy  the answers of the policy
learner the learner
other   the driver, and what belongs to no part
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass

from rlhf_flow.report.axes import Scale
from rlhf_flow.report.format import short

EVAL, TRAIN, POLICY, LEARNER, OTHER = "eval", "train", "policy", "learner", "other"
COLOURS = (
    (EVAL, "judge of the evaluation"),
    (TRAIN, "judge of training"),
    (POLICY, "answers of the policy"),
    (LEARNER, "learner"),
    (OTHER, "driver and others"),
)
JUDGE, PROXY = "Judge of the evaluation", "Judge of training (proxy)"

RATE = Scale(least=0.4, floor=0.0, ceiling=1.0)
GAP = Scale(least=0.2)
SHARE = Scale(least=0.2, floor=0.0, ceiling=1.0)
LENGTH = Scale(least=4.0, relative=0.25, floor=0.0)
MULTIPLE = Scale(least=0.5, floor=0.0)
NATS = Scale(least=0.5)
KL = Scale(least=1.0, zero=True)
LOSS = Scale(least=0.1, relative=0.1)
WORTH = Scale(least=0.2, relative=0.25)
COUNT = Scale(floor=0.0, zero=True)
LEAST = (
    ("win rates", RATE),
    ("differences of win rates", GAP),
    ("other shares", SHARE),
    ("lengths", LENGTH),
    ("multiples", MULTIPLE),
    ("KL", KL),
    ("other nats", NATS),
    ("losses", LOSS),
    ("rewards and aspects", WORTH),
)


@dataclass(frozen=True)
class Measure:
    """One key of the metrics; `key`_low and `key`_high are its interval, if they are there."""

    key: str
    title: str
    note: str
    colour: str
    scale: Scale
    base: float | None = None  # a value that means something: an even win rate, no gap
    form: str = ".3f"  # in a table


RESULTS = (
    Measure("eval/win_rate", "Win rate", "against the start, held-out prompts", EVAL, RATE, 0.5),
    Measure(
        "eval/win_rate_length_controlled", "Win rate at equal length",
        "what the win rate would be if the answers were as long as the start's", EVAL, RATE, 0.5,
    ),
    Measure(
        "eval/proxy_win_rate", "Win rate by the judge of training",
        "of the same answers; what only this judge likes was learned to please it", TRAIN, RATE, 0.5,
    ),
    Measure(
        "eval/proxy_gap", "Proxy gap", "win rate by the judge of training less that by the judge of the evaluation",
        TRAIN, GAP, 0.0,
    ),
    Measure(
        "eval/accuracy", "Held-out accuracy", "share of labelled held-out pairs whose better answer has more reward",
        EVAL, RATE, 0.5,
    ),
    Measure(
        "eval/log_loss", "Held-out log loss", "of the reward model's probabilities against the labels, nats", EVAL, LOSS
    ),
    Measure("eval/reward", JUDGE, "mean over held-out answers", EVAL, WORTH),
    Measure("eval/proxy", PROXY, "the same answers", TRAIN, WORTH),
    Measure(
        "eval/gap", "Duality gap", "to the equilibrium of the judge's preferences: 0 there and nowhere else", EVAL,
        GAP, 0.0,
    ),
)  # fmt: skip
CHANGES = (
    Measure("eval/kl", "KL from the start", "nats per answer, mean over held-out answers", POLICY, KL, form=".2f"),
    Measure("eval/length", "Length", "tokens per held-out answer", POLICY, LENGTH, form=".1f"),
    Measure(
        "eval/truncated", "Cut at the limit", "share of held-out answers without an end", POLICY, SHARE, form=".1%"
    ),
    Measure(
        "eval/distinct", "Distinct answers", "different texts, as a share of the held-out answers", POLICY, SHARE,
        form=".1%",
    ),
    Measure(
        "eval/repetition", "Repetition", "share of the 4-grams of an answer that it had before", POLICY, SHARE,
        form=".1%",
    ),
    Measure("eval/length_drift", "Length drift", "mean length as a multiple of the start's", POLICY, MULTIPLE, 1.0),
    Measure(
        "eval/topk_entropy", "Top-10 entropy", "of the ten likeliest next tokens among themselves, nats", POLICY, NATS
    ),
    Measure(
        "eval/topk_mass", "Top-10 mass", "probability that the ten likeliest next tokens have together", POLICY, SHARE
    ),
)  # fmt: skip
CYCLES = (
    Measure(
        "intransitivity/cyclic_triads", "Cyclic triads",
        "share of the decided triples of answers that are cyclic; a coin: 1/4", TRAIN, SHARE, 0.25,
    ),
    Measure(
        "intransitivity/hodge_residual", "Hodge residual",
        "share of the squared log-odds that no number for each answer explains", TRAIN, SHARE,
    ),
    Measure(
        "intransitivity/gpm_gain", "Gain of two numbers",
        "by how much two numbers for each answer predict verdicts better than one, nats", TRAIN, LOSS, 0.0,
    ),
)  # fmt: skip
LEARNING = (
    Measure("train/loss", "Loss", "mean over the pairs of the round", LEARNER, LOSS, form=".4f"),
    Measure("train/margin", "Margin", "implicit reward of the better answer over the worse", LEARNER, NATS),
    Measure(
        "train/accuracy", "Accuracy", "share of pairs whose better answer has the higher implicit reward", LEARNER,
        SHARE, form=".1%",
    ),
    Measure(
        "reward/mean", "Reward of the samples", "the judge of training, on the answers of the round", TRAIN, WORTH
    ),
)  # fmt: skip


def least_spans(keys: Collection[str]) -> str:
    """What the axes of these measures span at least, in a sentence."""
    used = {measure.scale for measure in (*RESULTS, *CHANGES, *CYCLES, *LEARNING) if measure.key in keys}
    return "; ".join(f"{name}: {_span(scale)}" for name, scale in LEAST if scale in used)


def _span(scale: Scale) -> str:
    said = [short(scale.least)] if scale.least else []
    return " and ".join([*said, *([f"{scale.relative:.0%} of the value"] if scale.relative else [])])


def undecided(name: str, value: float, low: float | None, high: float | None) -> str:
    """A clause if an interval covers `value`, so that the measure cannot be told from it; else nothing."""
    if low is None or high is None or not low <= value <= high:
        return ""
    return f"{name} cannot be told from {short(value)}: the 95 % interval, {short(low)} to {short(high)}, covers it"


def aspects(names: Sequence[str], titles: Sequence[str]) -> list[Measure]:
    """What the judge of the evaluation says of each aspect."""
    return [
        Measure(f"eval/aspect/{name}", title, "mean over held-out answers", EVAL, WORTH)
        for name, title in zip(names, titles, strict=True)
    ]
