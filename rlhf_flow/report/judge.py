"""The section on LLM judges: the number of questions, their cost, and how often a judge gave no verdict.

Counts are per round, under `judge/` for the training scorer and `eval/judge/` for the evaluation scorer. Counts that a
scorer does not report are not drawn.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from rlhf_flow.report import buckets
from rlhf_flow.report.facts import broken
from rlhf_flow.report.figure import Figure, Section, lined, measured, stacked
from rlhf_flow.report.format import number, short
from rlhf_flow.report.measures import COUNT, EVAL, RATE, SHARE, TRAIN, Measure
from rlhf_flow.report.run_folder import Run
from rlhf_flow.report.svg_chart import Curve, Layer

MICRO = 1_000_000  # money is counted in millionths
SPENT = (
    Measure("calls", "Calls", "requests that were or may have been charged", TRAIN, COUNT),
    Measure("cost", "Money", "in the unit of the prices", TRAIN, COUNT),
    Measure("tokens", "Tokens of the judge", "questions and replies together", TRAIN, COUNT),
)
SHARES = (
    Measure("abstained", "Abstentions", "share of the questions without a verdict", TRAIN, SHARE),
    Measure(
        "inconsistent",
        "Inconsistency",
        "share of the questions whose two orders prefer the same position",
        TRAIN,
        SHARE,
    ),
    Measure("cached", "Cache hits", "share of the questions answered from the cache", TRAIN, SHARE),
)
AGREEMENT = Measure(
    "eval/judges_agree", "Agreement of the scorers",
    "share of the held-out prompts on which both scorers prefer the same answer", TRAIN, RATE, 0.5,
)  # fmt: skip
CAUSES = tuple(name for name in buckets.CAUSES if name != buckets.UNKNOWN)
JUDGES = (("training scorer", "judge", TRAIN), ("evaluation scorer", "eval/judge", EVAL))
DASHES = {TRAIN: 0, EVAL: 1}


def section(run: Run) -> Section:
    figures = [*_spent(run), *_shares(run), *_counted(run), *measured(run, [AGREEMENT])]
    return Section("Judge", tuple(figures), _note(run))


def _spent(run: Run) -> Iterator[Figure]:
    for measure in SPENT:
        lines = [
            Curve(name, _amount(run, prefix, measure.key), colour, DASHES[colour])
            for name, prefix, colour in JUDGES
            if any(_amount(run, prefix, measure.key).values())
        ]
        if lines:
            yield lined(measure, lines, rounds=run.metrics, events=broken(run))


def _amount(run: Run, prefix: str, key: str) -> dict[int, float]:
    if key != "cost":
        return run.series(f"{prefix}/{key}")
    return {round: value / MICRO for round, value in run.series(f"{prefix}/cost_micro").items()}


def _shares(run: Run) -> Iterator[Figure]:
    for measure in SHARES:
        lines = [
            Curve(name, _share(run, prefix, measure.key), colour, DASHES[colour]) for name, prefix, colour in JUDGES
        ]
        if present := [line for line in lines if line.points]:
            yield lined(measure, present, rounds=run.metrics, events=broken(run))


def _share(run: Run, prefix: str, key: str) -> dict[int, float]:
    """A count as a share of the questions, cached ones included; without rounds that asked nothing."""
    asked = _asked(run, prefix)
    return {round: value / asked[round] for round, value in run.series(f"{prefix}/{key}").items() if asked.get(round)}


def _asked(run: Run, prefix: str) -> dict[int, float]:
    """`asked`; for runs without that metric, queries and cache hits."""
    queries, cached = run.series(f"{prefix}/queries"), run.series(f"{prefix}/cached")
    return {round: value + cached.get(round, 0.0) for round, value in queries.items()} | run.series(f"{prefix}/asked")


def _counted(run: Run) -> Iterator[Figure]:
    for name, prefix, colour in JUDGES:
        of = "" if prefix == "judge" else " of the evaluation"
        asked = [
            Layer("asked", run.series(f"{prefix}/queries"), colour, 1),
            Layer("from the cache", run.series(f"{prefix}/cached"), colour, 4),
        ]
        yield from stacked(run, f"Questions{of}", f"to the {name}", [layer for layer in asked if layer.values])
        without = _causes(run, prefix)
        if any(any(values.values()) for values in without.values()):
            yield from stacked(run, f"No verdict{of}", f"by cause, {name}", buckets.causes(without))


def _causes(run: Run, prefix: str) -> dict[str, Mapping[int, float]]:
    known: dict[str, Mapping[int, float]] = {
        name: series for name in CAUSES if any((series := run.series(f"{prefix}/{name}")).values())
    }
    rest = {
        round: value - sum(series.get(round, 0.0) for series in known.values())
        for round, value in run.series(f"{prefix}/abstained").items()
    }
    return known | ({buckets.UNKNOWN: rest} if any(value > 0 for value in rest.values()) else {})


def _note(run: Run) -> str:
    """The totals of the run."""
    sentences = []
    for name, prefix, _ in JUDGES:
        calls, tokens = (sum(_amount(run, prefix, key).values()) for key in ("calls", "tokens"))
        cost = sum(_amount(run, prefix, "cost").values())
        asked, without = sum(_asked(run, prefix).values()), sum(run.series(f"{prefix}/abstained").values())
        parts = [f"{amount:,.0f} {unit}" for amount, unit in ((calls, "calls"), (tokens, "tokens")) if amount]
        parts += [f"{number(cost, ',.2f')} in the unit of the prices"] if cost else []
        parts += [f"{short(asked)} questions"] if asked else []
        parts += [f"{short(without)} of them without a verdict ({without / asked:.1%})"] if asked and without else []
        sentences += [f"The {name}: {', '.join(parts)}."] if parts else []
    return " ".join(sentences)
