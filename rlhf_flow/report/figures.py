"""The figures of a report, section by section. A section without any figure is left out."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace

from rlhf_flow.metrics.intransitivity import advice
from rlhf_flow.report import buckets, judge, measures
from rlhf_flow.report.facts import judges
from rlhf_flow.report.figure import Figure, Section, measured, stacked
from rlhf_flow.report.format import visible
from rlhf_flow.report.measures import Measure
from rlhf_flow.report.run_folder import Run


def sections(run: Run) -> list[Section]:
    """Those with a figure, in the order of the page."""
    names = run.names("eval/aspect/")
    made = [
        Section("Is it better?", tuple(measured(run, _results(run)))),
        Section("What did it become?", (*measured(run, measures.CHANGES), *_styles(run))),
        Section("Aspects of the answers", tuple(measured(run, measures.aspects(names, list(map(visible, names)))))),
        judge.section(run),
        Section("Are the preferences transitive?", tuple(measured(run, measures.CYCLES)), _advice(run)),
        Section("Learning", tuple(measured(run, measures.LEARNING))),
        Section("Where the rounds went", tuple(_spent(run))),
    ]
    return [section for section in made if section.figures]


def csv_files(run: Run) -> dict[str, str]:
    """File name -> CSV, of every chart of the page."""
    files: dict[str, str] = {}
    for figure in (figure for section in sections(run) for figure in section.figures):
        name, taken = figure.slug, 1
        while f"{name}.csv" in files:
            taken += 1
            name = f"{figure.slug}-{taken}"
        files[f"{name}.csv"] = figure.table.text
    return files


def _results(run: Run) -> Iterator[Measure]:
    """With the names of the judges."""
    who = judges(run)
    for measure in measures.RESULTS:
        if measure.key == "eval/reward" and who.evaluation is not None:
            both = ", which training uses too" if who.shared else ""
            yield replace(measure, note=f"{measure.note}, by {visible(who.evaluation)}{both}")
        elif measure.key == "eval/proxy" and who.training is not None:
            yield replace(measure, note=f"{measure.note}, by {visible(who.training)}")
        else:
            yield measure


def _styles(run: Run) -> Iterator[Figure]:
    shares = {name: run.series(f"eval/style/{name}") for name in run.names("eval/style/")}
    return stacked(run, "Styles", "share of the held-out answers that have each style", buckets.styles(shares))


def _spent(run: Run) -> Iterator[Figure]:
    seconds: dict[str, Mapping[int, float]] = {
        name: run.series(f"seconds/{name}") for name in run.names("seconds/") if name != "round"
    }
    yield from stacked(run, "Time", "seconds of each stage", buckets.stages(seconds | _between(run, seconds)))
    pairs = {name: run.series(f"pairs/{name}") for name in run.names("pairs/")}
    yield from stacked(run, "Pairs", "each considered pair has one bucket", buckets.buckets(pairs))
    # responses/sampled is the total, not a bucket
    responses = {name: run.series(f"responses/{name}") for name in run.names("responses/") if name != "sampled"}
    yield from stacked(run, "Responses", "each response has one bucket", buckets.buckets(responses))


def _between(run: Run, seconds: Mapping[str, Mapping[int, float]]) -> dict[str, Mapping[int, float]]:
    """The part of a round that no stage accounts for: the driver's own."""
    left = {
        round: total - sum(stage.get(round, 0.0) for stage in seconds.values())
        for round, total in run.series("seconds/round").items()
    }
    return {buckets.BETWEEN: left} if any(value > 0 for value in left.values()) else {}


def _advice(run: Run) -> str:
    """Of the last round whose preferences were examined."""
    examined = [metrics for metrics in run.metrics.values() if "intransitivity/triads" in metrics]
    return advice(examined[-1]) if examined else ""
