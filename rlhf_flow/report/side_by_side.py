"""Several runs on one page: curves, the last rounds with their differences, and keys that differ."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace

import numpy as np

from rlhf_flow.metrics.win_rate import gap
from rlhf_flow.report import measures, overoptimization
from rlhf_flow.report.facts import broken, header, judges
from rlhf_flow.report.figure import Figure, Section, curve, lined
from rlhf_flow.report.format import ABSENT, number, supported
from rlhf_flow.report.judge import AGREEMENT
from rlhf_flow.report.measures import Measure
from rlhf_flow.report.page import environment
from rlhf_flow.report.run_folder import Answer, Run, leaves
from rlhf_flow.system.visible_text import visible

MOST = 4  # runs on a page, each with its own colour and dash
TABLE = ("eval/win_rate", "eval/accuracy", "eval/win_rate_length_controlled", "eval/reward", "eval/proxy_win_rate",
         "eval/kl", "eval/length", "eval/truncated", "eval/distinct", "eval/repetition", "train/loss")  # fmt: skip
IGNORED = ("run_dir", "observe.", "hydra.")  # keys that do not affect what a run computes


def render(runs: Sequence[Run]) -> str:
    """The page. Raises ValueError for fewer than two runs, or too many."""
    if not 2 <= len(runs) <= MOST:
        raise ValueError(f"a comparison takes 2 to {MOST} runs, got {len(runs)}. Fix: name as many folders.")
    named = _named(runs)
    return (
        environment()
        .get_template("compared.html")
        .render(
            runs=[(f"run{at}", run.name) for at, run in enumerate(named, start=1)],
            headers=_headers(named),
            cautions=_cautions(named),
            events=[(run.name, round, "; ".join(reasons)) for run in named for round, reasons in broken(run).items()],
            sections=list(_sections(named)),
            table=list(_table(named)),
            differences=[_difference(named[0], run) for run in named[1:]],
            config=list(_config(named)),
        )
    )


def _named(runs: Sequence[Run]) -> list[Run]:
    """The runs with distinct names."""
    names = [visible(run.name) for run in runs]
    return [
        replace(run, name=name if names.count(name) == 1 else f"{name} ({at})")
        for at, (run, name) in enumerate(zip(runs, names, strict=True), start=1)
    ]


def _headers(runs: Sequence[Run]) -> list[tuple[str, list[str]]]:
    headers = [dict(header(run)) for run in runs]
    labels = dict.fromkeys(label for one in headers for label in one)
    return [(label, [one.get(label, ABSENT) for one in headers]) for label in labels]


def _cautions(runs: Sequence[Run]) -> list[str]:
    """Reasons why the curves of these runs are not comparable."""
    cautions = []
    if len({judges(run).evaluation for run in runs}) > 1:
        cautions.append("The runs have different evaluation scorers: their win rates and rewards are not comparable.")
    if len({_start(run) for run in runs}) > 1:
        cautions.append("The runs have different starts: each win rate is against the run's own start.")
    shared = [visible(run.name) for run in runs if judges(run).shared and run.series("eval/win_rate")]
    if shared:
        cautions.append(f"The win rate is by the scorer that training optimises: {', '.join(shared)}.")
    if len({_objective(run) for run in runs}) > 1:
        cautions.append("The runs have different objectives: their losses and margins are not comparable.")
    return cautions


def _start(run: Run) -> object:
    model = run.config.get("model")
    return model.get("path") if isinstance(model, Mapping) else model


def _objective(run: Run) -> object:
    objective = run.config.get("objective")
    return objective.get("_target_") if isinstance(objective, Mapping) else objective


# -- charts -----------------------------------------------------------------------------------------------------------


def _sections(runs: Sequence[Run]) -> Iterator[Section]:
    aspects = sorted({name for run in runs for name in run.names("eval/aspect/")})
    for title, wanted in (
        ("Results", measures.RESULTS),
        ("How the answers changed", measures.CHANGES),
        ("Aspects of the answers", measures.aspects(aspects, list(map(visible, aspects)))),
        ("Judge", (AGREEMENT,)),
        ("Transitivity", measures.CYCLES),
        ("Learning", measures.LEARNING),
        ("Time", (Measure("seconds/round", "Time of a round", "seconds", measures.OTHER, measures.COUNT),)),
    ):
        figures = [figure for measure in wanted for figure in _figure(runs, measure)]
        if title == "Results":
            figures += overoptimization.figure_of_runs(runs)
        if figures:
            yield Section(title, tuple(figures))


def _figure(runs: Sequence[Run], measure: Measure) -> Iterator[Figure]:
    """One curve for each run that has the measure, in the colour of the run."""
    lines = [curve(run, measure, run.name, f"run{at + 1}", dash=at) for at, run in enumerate(runs)]
    present = [line for line in lines if line.points]
    if present:
        rounds = sorted({round for run in runs for round in run.metrics})
        yield lined(measure, present, rounds=rounds, events=_events(runs), named=True)


def _events(runs: Sequence[Run]) -> dict[int, list[str]]:
    found: dict[int, list[str]] = {}
    for run in runs:
        for round, reasons in broken(run).items():
            found.setdefault(round, []).extend(f"{run.name}: {reason}" for reason in reasons)
    return found


# -- tables -----------------------------------------------------------------------------------------------------------


def _table(runs: Sequence[Run]) -> Iterator[tuple[str, list[str]]]:
    """The training scorer's queries of each run, then the last value of each measure, with its interval and round."""
    queries = [run.series("judge/queries").values() for run in runs]
    if any(queries):
        yield "Queries of training", [number(sum(one), ",.0f") if one else ABSENT for one in queries]
    for measure in (measures.MEASURES[key] for key in TABLE):
        if any(run.series(measure.key) for run in runs):
            yield measure.title, [last_value(run, measure) for run in runs]


def last_value(run: Run, measure: Measure) -> str:
    """The last value of a measure, with its interval and round."""
    series = run.series(measure.key)
    if not series:
        return ABSENT
    last = max(series)
    low, high = (run.metrics[last].get(f"{measure.key}_{end}") for end in ("low", "high"))
    form = supported(measure.form, low, high)
    interval = "" if low is None or high is None else f" ({number(low, form)} to {number(high, form)})"
    return f"{number(series[last], form)}{interval}, round {last}"


def _difference(first: Run, other: Run) -> tuple[str, str]:
    """A name and a sentence: how much more often `other` beats its start than `first` does.

    Paired over the held-out prompts that both runs answered in the last round that each of them evaluated.
    """
    name = f"{other.name} minus {first.name}"
    if not first.answered or not other.answered:
        return name, "not available: a run has no evaluated round after its start"
    rounds = first.answered[-1], other.answered[-1]
    pairs = _paired(first.answers(rounds[0]), other.answers(rounds[1]))
    if not pairs:
        return name, "not available: the runs share no held-out prompt with a verdict"
    wins = np.array(pairs, dtype=np.float64)  # [prompts, 2]
    found = gap("gap", wins[:, 1], wins[:, 0])
    low, high = found["gap_low"], found["gap_high"]
    winner = other if low > 0 else first
    verdict = "not significant: the interval covers 0" if low <= 0 <= high else f"{winner.name} wins more often"
    after = f"round {rounds[1]}" if rounds[0] == rounds[1] else f"rounds {rounds[1]} and {rounds[0]}"
    over = f"over {len(pairs)} prompts that both answered, after {after}"
    form = supported("+.3f", low, high)
    interval = f"95 % interval {number(low, form)} to {number(high, form)}"
    return name, f"win rate {number(found['gap'], form)} ({interval}), {over}; {verdict}"


def _paired(first: Sequence[Answer], other: Sequence[Answer]) -> list[tuple[float, float]]:
    """The win probabilities of the prompts, by id and text, for which both runs have a verdict."""
    known = {(answer.prompt_id, answer.prompt): answer.win for answer in first}
    both = [(known.get((answer.prompt_id, answer.prompt)), answer.win) for answer in other]
    return [(one, two) for one, two in both if one is not None and two is not None and one == one and two == two]


def _config(runs: Sequence[Run]) -> Iterator[tuple[str, list[str]]]:
    """Keys whose values differ, without private values; a dash for a key that a run does not have."""
    flat = [dict(leaves("", run.config)) for run in runs]
    shown = [dict(leaves("", run.private.value("", run.config))) for run in runs]
    for key in dict.fromkeys(key for one in flat for key in one):
        differs = len({one.get(key) for one in flat}) > 1
        if differs and not key.startswith(IGNORED):
            yield visible(key), [visible(one.get(key, ABSENT)) for one in shown]
