"""Alarms: signs in the metrics of the rounds so far that a run exploits its scorer instead of improving.

An alarm that trips is the metric `alarm/<name>` = 1 of its round.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

from rlhf_flow.metrics.bucket_counts import pairs, reasons
from rlhf_flow.metrics.digits import with_interval
from rlhf_flow.types import RoundRecord

Metrics = Mapping[str, float]
PREFIX = "alarm/"
NO_PAIRS = f"{PREFIX}no_pairs"
OF_SCORERS = ("silent_judge", "inconsistent_judge")  # from the counts of scorers, in every round
FEW = 8  # questions to a scorer
MOST_TRUNCATED = 0.8  # trips `truncated_rise` regardless of the start, which may have no room to rise
SATURATED_KL, SATURATED_FAR = 0.2, 0.5  # nats per token
SATURATED_LOW = 0.8  # low end of the win rate's interval: 16 verdicts that all win exceed it, 15 do not
SATURATED_ROUNDS = (
    3  # evaluations in a row; one is enough beyond SATURATED_FAR, or if the low end is above SATURATED_SURELY
)
SATURATED_SURELY = 0.97
SHORT = 20.0  # tokens: in a short response, one choice among eight words (2 nats) is a high KL per token


@dataclass(frozen=True)
class Alarm:
    """An alarm that tripped: its key under `alarms`, and why."""

    name: str
    reason: str


class AlarmError(RuntimeError):
    """An alarm stopped the run. All committed stages and the last policy are kept."""


@dataclass(frozen=True)
class Alarms:
    """When an alarm trips (null: never), and what happens then.

    warn: shown on the console and in the report, and recorded in the round's metrics. stop: also ends the run, with
    exit status 1, once the round is committed and its policy saved; the same command continues with the next round.

    The defaults are silent in a good run. Metrics with an interval over prompts must be beyond the threshold with the
    whole interval, or beyond it and changed by more than chance (`scripts/proofs/intervals.py` counts). `saturated` is
    the exception, since an interval over a few dozen prompts never lies above 0.98: it takes three evaluations in a
    row, or one whose interval lies above 0.97 or whose policy is more than 0.5 nats per token from the start.
    """

    action: str = "warn"  # warn | stop
    no_pairs: str | None = "stop"  # a round without pairs. stop: if it trained on nothing; warn; null: ignore
    proxy_gap: float | None = 0.1  # win rate by the scorer of training minus that by the evaluation scorer
    length_drift: float | None = 1.5  # responses this many times as long as the start's, or as short; more than chance
    win_rate_drop: float | None = 0.05  # fall of the win rate below its best, if it is more than chance
    entropy_fall: float | None = 0.5  # share of its highest value that eval/topk_entropy loses
    mass_fall: float | None = 0.05  # fall of eval/topk_mass below its highest value
    truncated_rise: float | None = 0.2  # rise of the share of truncated responses over the start's; or 80 % are
    distinct_fall: float | None = 0.5  # share of the start's distinct responses that is lost
    silent_judge: float | None = 0.1  # share of a scorer's questions with a verdict; below it, the run stops at once
    inconsistent_judge: float | None = 0.5  # share of verdicts that flip with the order of the responses
    repetition_rise: float | None = 0.2  # rise of the share of repeated 4-grams over the start's
    saturated: float | None = 0.98  # win rate, at an eval/kl of more than 0.2 nats per token: over-optimisation
    kl: float | None = 0.5  # eval/kl, nats per token; responses of fewer than 20 tokens count as 20

    def __post_init__(self) -> None:
        if self.action not in ("warn", "stop"):
            raise ValueError(f"alarms.action must be warn or stop, got {self.action!r}. Fix: alarms.action=warn.")
        if self.no_pairs not in ("warn", "stop", None):
            raise ValueError(f"alarms.no_pairs must be stop, warn or null, got {self.no_pairs!r}. Fix: use null.")
        for name in (*THRESHOLDS, *OF_SCORERS):
            value, least = vars(self)[name], 1.0 if name == "length_drift" else 0.0
            if value is not None and not least <= value < math.inf:
                raise ValueError(
                    f"alarms.{name} must be a number >= {least:g}, got {value}. Fix: null turns the alarm off."
                )

    def stops(self, record: RoundRecord) -> bool:
        """Whether the run ends after this round."""
        return (self.action == "stop" and bool(raised(record.metrics))) or self.learned_nothing(record.metrics)

    def learned_nothing(self, metrics: Metrics) -> bool:
        """Whether a round without pairs ends the run. With replay it may have trained on pairs of earlier rounds."""
        return self.no_pairs == "stop" and bool(metrics.get(NO_PAIRS)) and not metrics.get("train/steps")


@dataclass(frozen=True)
class Sign:
    """An alarm on the metrics of evaluation."""

    trips: Callable[[Sequence[Metrics], Metrics, float], bool]  # given earlier rounds, this one and the threshold
    reason: str  # a format of the metric `eval/<metric>`; `rate`: with its interval
    metric: str


SIGNS: Mapping[str, Sign] = {
    "proxy_gap": Sign(
        lambda earlier, now, limit: _get(now, "proxy_gap_low") > limit,
        "the win rate by the scorer of training exceeds that by the evaluation scorer by {rate}",
        "proxy_gap",
    ),
    "length_drift": Sign(
        lambda earlier, now, limit: (
            (_get(now, "length_drift") > limit and _get(now, "length_drift_low") > 1)
            or (_get(now, "length_drift") < 1 / limit and _get(now, "length_drift_high") < 1)
        ),
        "answers are {:.2f} times as long as the start's",
        "length_drift",
    ),
    "win_rate_drop": Sign(
        lambda earlier, now, limit: _get(now, "win_rate_drop") > limit and _get(now, "win_rate_drop_low") > 0,
        "the win rate fell to {rate}, below its best",
        "win_rate",
    ),
    "entropy_fall": Sign(
        lambda earlier, now, limit: _get(now, "topk_entropy_high") < (1 - limit) * _highest(earlier, "topk_entropy"),
        "the entropy of the likeliest next tokens fell to {:.3f} nats",
        "topk_entropy",
    ),
    "mass_fall": Sign(
        lambda earlier, now, limit: _highest(earlier, "topk_mass_low") - _get(now, "topk_mass_high") > limit,
        "the probability of the likeliest next tokens fell to {:.3f}",
        "topk_mass",
    ),
    "truncated_rise": Sign(
        lambda earlier, now, limit: (
            _get(now, "truncated_low") - _first(earlier, "truncated_high") > limit
            or _get(now, "truncated") > MOST_TRUNCATED
        ),
        "{:.1%} of the answers are cut at the token limit; a higher answers.max_tokens needs a new run_dir",
        "truncated",
    ),
    "distinct_fall": Sign(
        lambda earlier, now, limit: _get(now, "distinct") < (1 - limit) * _first(earlier, "distinct"),
        "only {:.1%} of the answers are distinct",
        "distinct",
    ),
    "repetition_rise": Sign(
        lambda earlier, now, limit: _get(now, "repetition_low") - _first(earlier, "repetition") > limit,
        "{:.1%} of an answer's 4-grams repeat earlier ones",
        "repetition",
    ),
    "saturated": Sign(
        lambda earlier, now, limit: _stays_saturated(earlier, now, limit),
        "the win rate is {rate} far from the start (eval/kl): the policy may exploit the scorer. Read answers, and see "
        "objective.beta, the learning rate or evaluate.scorer",
        "win_rate",
    ),
    "kl": Sign(
        lambda earlier, now, limit: _get(now, "kl_low") > limit * max(now.get("eval/length", 0.0), SHORT),
        "the policy is {:.1f} nats per answer from the start",
        "kl",
    ),
}
THRESHOLDS = tuple(SIGNS)


def tripped(history: Sequence[Metrics], thresholds: Alarms) -> list[Alarm]:
    """The alarms of the last round of `history`, the metrics of all rounds so far.

    A metric that a round lacks trips nothing and is not compared with.
    """
    if not history:
        return []
    *earlier, now = history
    limits = {name: vars(thresholds)[name] for name in SIGNS}
    return [
        _alarm(name, now)
        for name, sign in SIGNS.items()
        if limits[name] is not None and sign.trips(earlier, now, limits[name])
    ]


def without_pairs(metrics: Metrics, alarms: Alarms) -> dict[str, float]:
    """`alarm/no_pairs` = 1 if a round considered responses and has no pair, unless labels are overdue."""
    counted = pairs(metrics)
    if alarms.no_pairs is None or counted is None or counted[0] or metrics.get("judge/overdue"):
        return {}
    return {NO_PAIRS: 1}


def of_judge(now: Metrics, thresholds: Alarms) -> list[Alarm]:
    """The alarms on the counts of scorers. `check_silence` has already stopped the run on a silent one."""
    limit = thresholds.inconsistent_judge
    return [_alarm("inconsistent_judge", now)] if limit is not None and _inconsistent(now) > limit else []


def raised(metrics: Metrics) -> list[Alarm]:
    """The alarms in a round's metrics, including unknown ones."""
    return [
        _alarm(key.removeprefix(PREFIX), metrics) for key, value in metrics.items() if key.startswith(PREFIX) and value
    ]


def raise_if_stopped(record: RoundRecord, alarms: Alarms) -> None:
    """Raise AlarmError if an alarm ended the run after this round."""
    if alarms.learned_nothing(record.metrics):
        raise AlarmError(
            f"round {record.round} has no pair, so it learned nothing and the run stopped. "
            f"{_no_pairs(record.metrics)}. {_no_pairs_remedy(record.metrics)} alarms.no_pairs=warn continues anyway."
        )
    if alarms.stops(record):
        reasons = "; ".join(f"alarms.{alarm.name}: {alarm.reason}" for alarm in raised(record.metrics))
        raise AlarmError(
            f"an alarm stopped the run after round {record.round}, which is committed and its policy saved. {reasons}. "
            "Look at report.html. The same command continues with the next round; alarms.action=warn never stops."
        )


def _inconsistent(now: Metrics) -> float:
    """The larger share, of the scorer of training and of the evaluation scorer."""
    shares = [0.0]
    for prefix in ("judge", "eval/judge"):
        asked = now.get(f"{prefix}/asked", 0)
        shares += [now.get(f"{prefix}/inconsistent", 0) / asked] if asked >= FEW else []
    return max(shares)


def _no_pairs(metrics: Metrics) -> str:
    answers = sum(
        value for key, value in metrics.items() if key.startswith("responses/") and key != "responses/sampled"
    )
    return f"no pair is left of {answers:.0f} answers ({reasons(metrics) or 'the scorer preferred none'})"


def _no_pairs_remedy(metrics: Metrics) -> str:
    if metrics.get("responses/truncated"):
        return "Fix: a higher answers.max_tokens in a new run_dir, or selector.truncated=keep."
    if metrics.get("pairs/abstained") or metrics.get("pairs/capped"):
        return "Fix: look at the scorer's replies, and raise its budget or max_tokens."
    return "Fix: more answers to each prompt (answers.n), or a scorer that discriminates between them."


def _alarm(name: str, metrics: Metrics) -> Alarm:
    if f"{PREFIX}{name}" == NO_PAIRS:
        return Alarm(name, _no_pairs(metrics))
    if name == "inconsistent_judge":
        share = _inconsistent(metrics)
        return Alarm(name, f"{share:.0%} of the judge's verdicts flip with the order of the answers")
    sign = SIGNS.get(name)
    if sign is None:
        return Alarm(name, "tripped")
    value, low, high = (_get(metrics, f"{sign.metric}{end}") for end in ("", "_low", "_high"))
    return Alarm(name, sign.reason.format(value, rate=with_interval(value, low, high)))


def _stays_saturated(earlier: Sequence[Metrics], now: Metrics, limit: float) -> bool:
    """In several evaluations in a row; or in this one, if it is beyond chance or very far from the start."""
    last = [one for one in earlier if not math.isnan(_get(one, "win_rate"))][1 - SATURATED_ROUNDS :]
    in_a_row = len(last) == SATURATED_ROUNDS - 1 and all(_saturated(one, limit) for one in last)
    at_once = _get(now, "win_rate_low") > min(limit, SATURATED_SURELY) or _beyond(now, SATURATED_FAR)
    return _saturated(now, limit) and (in_a_row or at_once)


def _saturated(metrics: Metrics, limit: float) -> bool:
    high = _get(metrics, "win_rate") > limit and _get(metrics, "win_rate_low") > min(limit, SATURATED_LOW)
    return high and _beyond(metrics, SATURATED_KL)


def _beyond(metrics: Metrics, kl: float) -> bool:
    return _get(metrics, "kl") > kl * max(metrics.get("eval/length", 0.0), SHORT)


def _get(metrics: Metrics, name: str) -> float:
    """NaN, which compares as False, if it was not measured. Without an interval, the value is both its ends."""
    value = metrics.get(f"eval/{name}", math.nan)
    base = name.removesuffix("_low").removesuffix("_high")
    return metrics.get(f"eval/{base}", math.nan) if math.isnan(value) else value


def _first(earlier: Sequence[Metrics], name: str) -> float:
    return next(_known(earlier, name), math.nan)


def _highest(earlier: Sequence[Metrics], name: str) -> float:
    return max(_known(earlier, name), default=math.nan)


def _known(earlier: Sequence[Metrics], name: str) -> Iterator[float]:
    return (value for metrics in earlier if not math.isnan(value := _get(metrics, name)))
