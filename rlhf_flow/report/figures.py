"""The figures of a report, section by section. A section without any figure is left out."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace

from rlhf_flow.metrics.intransitivity import advice
from rlhf_flow.report import buckets, judge, measures, overoptimization
from rlhf_flow.report.facts import judges
from rlhf_flow.report.figure import Figure, Section, measured, stacked
from rlhf_flow.report.measures import Measure
from rlhf_flow.report.run_folder import Run
from rlhf_flow.system.visible_text import visible


def sections(run: Run) -> list[Section]:
    """The sections that have a figure, in the order of the page."""
    names = run.names("eval/aspect/")
    made = [
        Section("Results", (*measured(run, _results(run)), *overoptimization.figure(run))),
        Section("How the answers changed", (*measured(run, measures.CHANGES), *_styles(run))),
        Section("Aspects of the answers", tuple(measured(run, measures.aspects(names, list(map(visible, names)))))),
        judge.section(run),
        Section("Transitivity", tuple(measured(run, measures.CYCLES)), _advice(run)),
        Section("Learning", tuple(measured(run, measures.LEARNING))),
        Section("Time and data", tuple(_spent(run))),
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
    """The results, with the names of the scorers in their notes."""
    scorers = judges(run)
    for measure in measures.RESULTS:
        if measure.key == "eval/reward" and scorers.evaluation is not None:
            both = ", which training uses too" if scorers.shared else ""
            yield replace(measure, note=f"{measure.note}, by {visible(scorers.evaluation)}{both}")
        elif measure.key == "eval/proxy" and scorers.training is not None:
            yield replace(measure, note=f"{measure.note}, by {visible(scorers.training)}")
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
    """The part of a round's time that no stage accounts for."""
    left = {
        round: total - sum(stage.get(round, 0.0) for stage in seconds.values())
        for round, total in run.series("seconds/round").items()
    }
    return {buckets.BETWEEN: left} if any(value > 0 for value in left.values()) else {}


def _advice(run: Run) -> str:
    """The advice on the last round that measured intransitivity."""
    examined = [metrics for metrics in run.metrics.values() if "intransitivity/triads" in metrics]
    return advice(examined[-1]) if examined else ""
