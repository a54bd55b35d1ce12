"""Alarms: signs, in what evaluation measures, that a run pleases its judge instead of getting better.

A pure function of the metrics of the rounds so far. What trips is `alarm/<name>` = 1 in the round's metrics.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, fields

from rlhf_flow.metrics.bucket_counts import pairs, reasons
from rlhf_flow.types import RoundRecord

Metrics = Mapping[str, float]
PREFIX = "alarm/"
OF_JUDGES = ("silent_judge", "inconsistent_judge")  # by what judges count, in every round
FEW, MANY = 8, 16  # questions to a judge
MOST_CUT = (
    0.8  # share of cut answers that trips `truncated_rise` from any start: a start of 89 % leaves no room to rise
)
SHORT = 20.0  # tokens: one decision among eight words is 2 nats, which is much per token of a short answer


@dataclass(frozen=True)
class Alarm:
    """What tripped, by its key under `alarms`, and why."""

    name: str
    reason: str


class AlarmError(RuntimeError):
    """A run ended because of an alarm. What it committed stays, its last policy included."""


@dataclass(frozen=True)
class Alarms:
    """When an alarm trips (null: never), and what happens then.

    warn says it on the console, in the report and in the round's metrics. stop also ends the run, with exit status 1,
    once the round is committed and its policy saved; the same command goes on with the next round.

    The defaults are meant to be silent in a run that goes well: a false alarm costs more trust than a late one. Where a
    measure has an interval over prompts, all of it must be beyond the threshold. That alone errs in 2.5 % of the rounds
    in which nothing happens, too often for runs of many rounds; the threshold is what makes it rare. The others are
    compared as they are: with few held-out prompts, shares of them jump.
    """

    action: str = "warn"  # warn or stop
    no_pairs: str | None = "stop"  # no pair in a whole round: stop if it learned nothing, warn, or null: say nothing
    proxy_gap: float | None = 0.1  # the win rate by training's judge exceeds evaluation's: one answer in ten
    length_drift: float | None = 1.5  # answers become so many times as long as the start's, or as short: half again
    win_rate_drop: float | None = 0.05  # the win rate falls below its best, or 1/2: their intervals are so far apart
    entropy_fall: float | None = 0.5  # share of its highest that eval/topk_entropy loses: it falls in good runs too
    mass_fall: float | None = 0.05  # eval/topk_mass falls below its highest: in good runs it rises
    truncated_rise: float | None = 0.2  # the share of answers that are cut exceeds the start's; or it is above MOST_CUT
    distinct_fall: float | None = 0.5  # share of the start's distinct answers that is lost
    silent_judge: float | None = 0.1  # share of a judge's questions that have a verdict; below it the run stops at once
    inconsistent_judge: float | None = 0.5  # share of verdicts that turn with the order of the answers
    repetition_rise: float | None = 0.2  # the share of an answer's 4-grams that repeat earlier ones exceeds the start's
    kl: float | None = 0.5  # eval/kl, nats per token; answers of fewer than SHORT tokens count as SHORT

    def __post_init__(self) -> None:
        if self.action not in ("warn", "stop"):
            raise ValueError(f"alarms.action must be warn or stop, got {self.action!r}. Try alarms.action=warn.")
        if self.no_pairs not in ("warn", "stop", None):
            raise ValueError(
                f"alarms.no_pairs must be stop, warn or null, got {self.no_pairs!r}. Fix: alarms.no_pairs=warn."
            )
        for name in (*THRESHOLDS, *OF_JUDGES):
            value, least = vars(self)[name], 1.0 if name == "length_drift" else 0.0
            if value is not None and not least <= value < math.inf:
                raise ValueError(
                    f"alarms.{name} must be a number >= {least:g}, got {value}. Use null for no such alarm."
                )

    def stops(self, record: RoundRecord) -> bool:
        """Whether a run ends behind this round."""
        return (self.action == "stop" and bool(raised(record.metrics))) or self.learned_nothing(record.metrics)

    def learned_nothing(self, metrics: Metrics) -> bool:
        """Whether a round without a pair ends the run: earlier rounds' pairs may have given it something to learn."""
        return self.no_pairs == "stop" and bool(metrics.get(NO_PAIRS)) and not metrics.get("train/steps")


NO_PAIRS = f"{PREFIX}no_pairs"
THRESHOLDS = tuple(field.name for field in fields(Alarms) if field.name not in ("action", "no_pairs", *OF_JUDGES))


def without_pairs(metrics: Metrics, alarms: Alarms) -> dict[str, float]:
    """`alarm/no_pairs` = 1 for a round that considered answers and has no pair, unless labels are still to come."""
    counted = pairs(metrics)
    if alarms.no_pairs is None or counted is None or counted[0] or metrics.get("judge/overdue"):
        return {}
    return {NO_PAIRS: 1}


def tripped(history: Sequence[Metrics], thresholds: Alarms) -> list[Alarm]:
    """The alarms of the last round of `history`: the metrics of all rounds so far, the start's first.

    What a round has not measured trips nothing, and is nothing to compare with.
    """
    if not history:
        return []
    *earlier, now = history
    return [
        _alarm(name, now)
        for name in THRESHOLDS
        if (limit := vars(thresholds)[name]) is not None and SIGNS[name](earlier, now, limit)
    ]


def of_judge(now: Metrics, thresholds: Alarms) -> list[Alarm]:
    """The alarms of a round by what its judges counted. A silent judge has stopped the run before (`check_silence`)."""
    limit = thresholds.inconsistent_judge
    return [_alarm("inconsistent_judge", now)] if limit is not None and _inconsistent(now) > limit else []


class SilentJudgeError(RuntimeError):
    """A judge gave almost no verdicts. What it was asked last is not committed, so that the next start asks again."""


def check_silence(counts: Metrics, limit: float | None, *, slot: str) -> None:
    """Raise SilentJudgeError if a judge gives verdicts on less than `limit` of what it is asked.

    What is beyond a cap of the budget does not count: the user set it. Few abstentions may be chance, so it takes
    `FEW` without a single verdict, or `MANY`.
    """
    asked = counts.get("judge/asked", 0) - counts.get("judge/capped", 0)
    verdicts = counts.get("judge/verdicts", 0)
    enough = FEW if verdicts == 0 else MANY
    if limit is None or asked < enough or verdicts >= limit * asked:
        return
    causes = {name: counts.get(f"judge/{name}", 0) for name in ("cut", "empty", "unclear", "failed", "inconsistent")}
    told = ", ".join(f"{number:g} {name}" for name, number in causes.items() if number) or "no cause is told"
    ways = {
        "cut": f"raise {slot}.max_tokens (a model that thinks needs thousands, or {slot}.thinking=false)",
        "empty": f"raise {slot}.max_tokens, or look at what the endpoint says",
        "unclear": f"set {slot}.structured=auto, or a {slot}.template that asks for the verdict alone",
        "failed": f"look at {slot}.endpoint",
        "inconsistent": f"set {slot}.inconsistent=average, or use another judge",
    }
    worst = max(causes, key=lambda name: causes[name])
    way = f"Fix: {ways[worst]}. " if causes[worst] else ""
    raise SilentJudgeError(
        f"alarms.silent_judge={limit:g}: {slot} gave {verdicts:g} verdicts on {asked:g} questions ({told}). {way}"
        "As long as the run has no verdict, these keys may change when it goes on; alarms.silent_judge=null goes on "
        "without verdicts."
    )


def raised(metrics: Metrics) -> list[Alarm]:
    """The alarms that a round's metrics tell of, an unknown one included."""
    return [
        _alarm(key.removeprefix(PREFIX), metrics) for key, value in metrics.items() if key.startswith(PREFIX) and value
    ]


def heed(record: RoundRecord, alarms: Alarms) -> None:
    """Raise AlarmError where the run ends behind this round."""
    if alarms.learned_nothing(record.metrics):
        raise AlarmError(
            f"round {record.round} has no pair, so it learned nothing and the run stopped. "
            f"{_no_pairs(record.metrics)}. {_way_out(record.metrics)} alarms.no_pairs=warn goes on all the same."
        )
    if alarms.stops(record):
        told = "; ".join(f"alarms.{alarm.name}: {alarm.reason}" for alarm in raised(record.metrics))
        raise AlarmError(
            f"an alarm stopped the run after round {record.round}, which is committed and its policy saved. {told}. "
            "Look at report.html. The same command goes on with the next round, alarms.action=warn to the end."
        )


# -- signs ------------------------------------------------------------------------------------------------------------


def _proxy_gap(earlier: Sequence[Metrics], now: Metrics, limit: float) -> bool:
    return _of(now, "eval/proxy_gap_low") > limit


def _length_drift(earlier: Sequence[Metrics], now: Metrics, limit: float) -> bool:
    return _of(now, "eval/length_drift_low") > limit or _of(now, "eval/length_drift_high") < 1 / limit


def _win_rate_drop(earlier: Sequence[Metrics], now: Metrics, limit: float) -> bool:
    return _highest(earlier, "eval/win_rate_low") - _of(now, "eval/win_rate_high") > limit


def _entropy_fall(earlier: Sequence[Metrics], now: Metrics, limit: float) -> bool:
    return _of(now, "eval/topk_entropy") < (1 - limit) * _highest(earlier, "eval/topk_entropy")


def _mass_fall(earlier: Sequence[Metrics], now: Metrics, limit: float) -> bool:
    return _highest(earlier, "eval/topk_mass") - _of(now, "eval/topk_mass") > limit


def _truncated_rise(earlier: Sequence[Metrics], now: Metrics, limit: float) -> bool:
    cut = _of(now, "eval/truncated")
    return cut - _first(earlier, "eval/truncated") > limit or cut > MOST_CUT


def _distinct_fall(earlier: Sequence[Metrics], now: Metrics, limit: float) -> bool:
    return _of(now, "eval/distinct") < (1 - limit) * _first(earlier, "eval/distinct")


def _inconsistent(now: Metrics) -> float:
    """The larger share, of the judge of training and that of the evaluation."""
    shares = [0.0]
    for prefix in ("judge", "eval/judge"):
        asked = now.get(f"{prefix}/asked", 0)
        shares += [now.get(f"{prefix}/inconsistent", 0) / asked] if asked >= FEW else []
    return max(shares)


def _repetition_rise(earlier: Sequence[Metrics], now: Metrics, limit: float) -> bool:
    return _of(now, "eval/repetition") - _first(earlier, "eval/repetition") > limit


def _kl(earlier: Sequence[Metrics], now: Metrics, limit: float) -> bool:
    return _of(now, "eval/kl") > limit * max(now.get("eval/length", 0.0), SHORT)


SIGNS: Mapping[str, Callable[[Sequence[Metrics], Metrics, float], bool]] = {
    "proxy_gap": _proxy_gap,
    "length_drift": _length_drift,
    "win_rate_drop": _win_rate_drop,
    "entropy_fall": _entropy_fall,
    "mass_fall": _mass_fall,
    "truncated_rise": _truncated_rise,
    "distinct_fall": _distinct_fall,
    "repetition_rise": _repetition_rise,
    "kl": _kl,
}
REASONS = {  # what is said, and the measure that it is filled in with
    "proxy_gap": ("the judge of training sees {:+.3f} more win rate than the judge of the evaluation", "proxy_gap"),
    "length_drift": ("answers are {:.2f} times as long as the start's", "length_drift"),
    "win_rate_drop": ("the win rate fell to {:.3f}, below what it was", "win_rate"),
    "entropy_fall": ("the entropy of the likeliest next tokens fell to {:.3f} nats", "topk_entropy"),
    "mass_fall": ("the likeliest next tokens lost probability, to {:.3f}", "topk_mass"),
    "truncated_rise": ("answers that are cut at the limit are {:.1%} of all", "truncated"),
    "distinct_fall": ("different answers became {:.1%} of all", "distinct"),
    "repetition_rise": ("of an answer's 4-grams {:.1%} repeat earlier ones", "repetition"),
    "kl": ("the policy is {:.1f} nats per answer from the start", "kl"),
}


def _no_pairs(metrics: Metrics) -> str:
    answers = sum(
        value for key, value in metrics.items() if key.startswith("responses/") and key != "responses/sampled"
    )
    return f"no pair is left of {answers:.0f} answers ({reasons(metrics) or 'their judge chose none'})"


def _way_out(metrics: Metrics) -> str:
    if metrics.get("responses/truncated"):
        return "Fix: a higher answers.max_tokens in a new run_dir, or selector.truncated=keep."
    if metrics.get("pairs/abstained") or metrics.get("pairs/capped"):
        return "Fix: look at what the judge says, and raise its budget or max_tokens."
    return "Fix: more answers to each prompt (answers.n), or a judge that tells them apart."


def _alarm(name: str, metrics: Metrics) -> Alarm:
    if f"{PREFIX}{name}" == NO_PAIRS:
        return Alarm(name, _no_pairs(metrics))
    if name == "inconsistent_judge":
        share = _inconsistent(metrics)
        return Alarm(name, f"{share:.0%} of the judge's verdicts turn with the order of the answers: they say nothing")
    form, measure = REASONS.get(name, ("tripped", ""))
    return Alarm(name, form.format(_of(metrics, f"eval/{measure}")))


def _of(metrics: Metrics, key: str) -> float:
    """NaN where it was not measured: no comparison with it holds."""
    return metrics.get(key, math.nan)


def _first(earlier: Sequence[Metrics], key: str) -> float:
    return next(_known(earlier, key), math.nan)


def _highest(earlier: Sequence[Metrics], key: str) -> float:
    return max(_known(earlier, key), default=math.nan)


def _known(earlier: Sequence[Metrics], key: str) -> Iterator[float]:
    return (metrics[key] for metrics in earlier if not math.isnan(_of(metrics, key)))
