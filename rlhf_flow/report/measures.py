"""The measures of a report, each with its title, its colour and the least span of its axis.

On the whole page a colour stands for the part of the system that a number comes from:

eval    the evaluation scorer
train   the training scorer
policy  the answers of the policy
learner the learner
other   the driver, and everything else
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from rlhf_flow.report.axes import Scale
from rlhf_flow.report.format import number, short, supported

EVAL, TRAIN, POLICY, LEARNER, OTHER = "eval", "train", "policy", "learner", "other"
COLOURS = (
    (EVAL, "evaluation scorer"),
    (TRAIN, "training scorer"),
    (POLICY, "answers of the policy"),
    (LEARNER, "learner"),
    (OTHER, "driver and others"),
)

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


@dataclass(frozen=True)
class Measure:
    """One key of the metrics; `key`_low and `key`_high are its interval, if present."""

    key: str
    title: str
    note: str
    colour: str
    scale: Scale
    base: float | None = None  # a reference value: a win rate of 1/2, no gap
    form: str = ".3f"  # in a table


RESULTS = (
    Measure("eval/win_rate", "Win rate", "against the start, held-out prompts", EVAL, RATE, 0.5),
    Measure(
        "eval/win_rate_length_controlled", "Win rate at equal length",
        "estimated win rate for answers as long as the start's", EVAL, RATE, 0.5,
    ),
    Measure(
        "eval/proxy_win_rate", "Win rate by the training scorer",
        "of the same answers; a higher value than the win rate indicates over-optimisation", TRAIN, RATE, 0.5,
    ),
    Measure(
        "eval/proxy_gap", "Proxy gap", "win rate by the training scorer minus that by the evaluation scorer",
        TRAIN, GAP, 0.0,
    ),
    Measure(
        "eval/accuracy", "Held-out accuracy", "share of labelled held-out pairs whose better answer has more reward",
        EVAL, RATE, 0.5,
    ),
    Measure(
        "eval/log_loss", "Held-out log loss", "of the reward model's probabilities against the labels, nats", EVAL, LOSS
    ),
    Measure("eval/loss", "Held-out loss", "of a token of the held-out answers in the data set, nats", EVAL, LOSS),
    Measure(
        "eval/token_accuracy", "Token accuracy", "share of these tokens that the policy finds the likeliest", EVAL, RATE
    ),
    Measure("eval/reward", "Evaluation scorer", "mean over held-out answers", EVAL, WORTH),
    Measure("eval/proxy", "Training scorer (proxy)", "the same answers", TRAIN, WORTH),
    Measure(
        "eval/gap", "Duality gap", "distance to the equilibrium of the scorer's preferences; 0 only at the equilibrium",
        EVAL, GAP, 0.0,
    ),
)  # fmt: skip
CHANGES = (
    Measure("eval/kl", "KL from the start", "nats per answer, mean over held-out answers", POLICY, KL, form=".2f"),
    Measure("eval/length", "Length", "tokens per held-out answer", POLICY, LENGTH, form=".1f"),
    Measure(
        "eval/truncated", "Cut at the limit", "share of held-out answers without end token", POLICY, SHARE, form=".1%"
    ),
    Measure(
        "eval/distinct", "Distinct answers", "number of different texts per held-out answer", POLICY, SHARE,
        form=".1%",
    ),
    Measure(
        "eval/repetition", "Repetition", "share of an answer's 4-grams that occurred before in it", POLICY, SHARE,
        form=".1%",
    ),
    Measure("eval/length_drift", "Length drift", "as a multiple of the start's, geometric mean", POLICY, MULTIPLE, 1.0),
    Measure(
        "eval/topk_entropy", "Top-10 entropy", "of the ten most likely next tokens, renormalised; nats", POLICY, NATS
    ),
    Measure(
        "eval/topk_mass", "Top-10 mass", "total probability of the ten most likely next tokens", POLICY, SHARE
    ),
)  # fmt: skip
CYCLES = (
    Measure(
        "intransitivity/cyclic_triads", "Cyclic triads",
        "share of the decided triples of answers that are cyclic; 1/4 by chance", TRAIN, SHARE, 0.25,
    ),
    Measure(
        "intransitivity/hodge_residual", "Hodge residual",
        "share of the squared log-odds that no scalar reward explains", TRAIN, SHARE,
    ),
    Measure(
        "intransitivity/gpm_gain", "Gain of two numbers",
        "nats by which two numbers per answer predict verdicts better than one", TRAIN, LOSS, 0.0,
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
        "reward/mean", "Reward of the samples", "by the training scorer, on the answers of the round", TRAIN, WORTH
    ),
)  # fmt: skip
MEASURES = {measure.key: measure for measure in (*RESULTS, *CHANGES, *CYCLES, *LEARNING)}


def undecided(name: str, value: float, low: float | None, high: float | None) -> str:
    """A clause if the interval covers `value`; else empty."""
    if low is None or high is None or not low <= value <= high:
        return ""
    form = supported(".3f", low, high)
    ends = f"{number(low, form)} to {number(high, form)}"
    return f"{name} does not differ significantly from {short(value)}: 95 % interval {ends}"


def aspects(names: Sequence[str], titles: Sequence[str]) -> list[Measure]:
    """The aspects that the evaluation scorer returns."""
    return [
        Measure(f"eval/aspect/{name}", title, "mean over held-out answers", EVAL, WORTH)
        for name, title in zip(names, titles, strict=True)
    ]
