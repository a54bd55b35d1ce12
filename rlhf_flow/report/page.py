"""The content of a run's page. Its layout is in page.html and page.css."""

from __future__ import annotations

from collections.abc import Iterator
from functools import cache

import yaml
from jinja2 import Environment, PackageLoader, StrictUndefined

from rlhf_flow.metrics.alarms import raised
from rlhf_flow.observe.summary_line import duration
from rlhf_flow.report.answers import groups
from rlhf_flow.report.facts import broken, header, judges
from rlhf_flow.report.figures import sections
from rlhf_flow.report.format import ABSENT, number, short, supported
from rlhf_flow.report.measures import COLOURS, MEASURES, undecided
from rlhf_flow.report.run_folder import Run, leaves
from rlhf_flow.report.tasks import results_of, rows
from rlhf_flow.system.visible_text import clipped, visible

CLIP = 4000  # characters of a text
HEADLINES = {  # the first that a run has measured
    "eval/accuracy": "Held-out accuracy",
    "eval/loss": "Held-out loss",
    "eval/win_rate": "Win rate against the start",
}
TILES = ("eval/token_accuracy", "eval/win_rate_length_controlled", "eval/proxy_win_rate", "eval/reward", "eval/proxy",
         "eval/kl", "eval/length", "eval/truncated", "eval/distinct", "eval/repetition")  # fmt: skip
UNITS = {"eval/kl": "nats", "eval/length": "tokens"}
COLUMNS = {  # of the table of rounds
    "eval/token_accuracy": "token accuracy", "eval/reward": "judge", "eval/proxy": "proxy",
    "eval/win_rate_length_controlled": "equal length",
    "eval/proxy_gap": "proxy gap", "eval/gap": "gap", "eval/kl": "KL", "eval/length": "length", "eval/truncated": "cut",
    "eval/distinct": "distinct", "train/loss": "loss", "train/accuracy": "accuracy",
}  # fmt: skip
SHARED = (
    "The win rate is by the scorer that training optimises{}. A policy that over-optimises this scorer also has a high "
    "win rate. Fix: evaluate.scorer=NAME, a scorer that training does not use."
)


def render(run: Run) -> str:
    """The same folder gives the same page, to the byte."""
    return (
        environment()
        .get_template("page.html")
        .render(
            run=run,
            status=_status(run),
            facts=header(run),
            headline=_headline(run),
            tiles=list(_tiles(run)),
            cautions=_cautions(run),
            events=[(round, "; ".join(reasons)) for round, reasons in broken(run).items()],
            sections=sections(run),
            columns=columns(run),
            sources=sources(run),
            tasks=_tasks(run),
            everything=_everything(run),
            groups=list(groups(run)),
            colours=COLOURS,
            config=_config(run),
            manifest=_manifest(run),
        )
    )


@cache
def environment() -> Environment:
    made = Environment(
        loader=PackageLoader("rlhf_flow.report", package_path="."),
        autoescape=True,  # text of models and users is escaped
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    made.filters |= {"number": number, "whole": visible, "text": lambda text: clipped(visible(text), CLIP)}
    return made


# -- the top ----------------------------------------------------------------------------------------------------------


def _status(run: Run) -> str:
    of = "" if run.rounds is None else f" of {run.rounds}"
    return f"rounds: {run.done}{of}, {'finished' if run.finished else 'not finished'}"


def _headline(run: Run) -> tuple[str, str, str]:
    """Label, last value and interval of a policy's win rate or loss, or a reward model's accuracy.

    Round 0 compares the start with itself and is not shown.
    """
    key = next((key for key in HEADLINES if run.series(key)), "eval/win_rate")
    label, base = HEADLINES[key], MEASURES[key].base
    measured = {round: value for round, value in run.series(key).items() if round > 0}
    if not measured:
        return label, ABSENT, "not measured in this run" if run.finished else "not measured yet"
    last = max(measured)
    low, high = (run.metrics[last].get(f"{key}_{end}") for end in ("low", "high"))
    form = supported(".3f", low, high)
    interval = "" if low is None or high is None else f"95 % interval {number(low, form)} to {number(high, form)}, "
    unclear = base is not None and undecided("", base, low, high)
    noise = "; not significant: the interval covers 0.5" if unclear else ""
    return label, number(measured[last], form), f"{interval}after round {last}{noise}"


def _tiles(run: Run) -> Iterator[tuple[str, str, str, str]]:
    """Label, last value, unit, and the round of the last value or the first value."""
    for key in TILES:
        measure, series = MEASURES[key], run.series(key)
        if series:
            first, last = min(series), max(series)
            before = (
                f"{_value(run, key, first, measure.form)} in round {first}" if first != last else f"in round {last}"
            )
            yield measure.title, _value(run, key, last, measure.form), UNITS.get(key, ""), before


def _value(run: Run, key: str, round: int, form: str = ".3f") -> str:
    """In the digits that its interval supports."""
    value, low, high = (run.metrics[round].get(f"{key}{end}") for end in ("", "_low", "_high"))
    return number(value, supported(form, low, high))


def _cautions(run: Run) -> list[str]:
    """Warnings about the run and its metrics."""
    keys = sorted({key for values in run.metrics.values() for key in values})
    bad = [(key, [at for at, value in run.series(key).items() if number(value) in ("NaN", "∞", "−∞")]) for key in keys]
    wrong = [f"{visible(key)} is not finite in round {', '.join(map(str, at))}" for key, at in bad if at]
    return [*_alarms(run), *by_training(run), *map(visible, run.warnings), *wrong]


def by_training(run: Run) -> list[str]:
    """A caution if the win rate is by the scorer that training optimises."""
    scorers = judges(run)
    named = f" ({visible(scorers.evaluation)})" if scorers.evaluation else ""
    return [SHARED.format(named)] if scorers.shared and run.series("eval/win_rate") else []


def _alarms(run: Run) -> list[str]:
    """Each alarm once, with its rounds and its last reason."""
    rounds: dict[str, list[int]] = {}
    reasons: dict[str, str] = {}
    for round, metrics in run.metrics.items():
        for alarm in raised(metrics):
            rounds.setdefault(alarm.name, []).append(round)
            reasons[alarm.name] = alarm.reason
    return [f"alarm {visible(name)} in round {', '.join(map(str, at))}: {reasons[name]}" for name, at in rounds.items()]


# -- tables -----------------------------------------------------------------------------------------------------------


def columns(run: Run) -> list[tuple[str, list[str]]]:
    """The table of rounds, column by column; a measure that no round has is left out."""
    rounds = list(run.metrics)
    table = [("round", [str(round) for round in rounds])]
    table += _rate(run, "win rate", "eval/win_rate")
    table += _rate(run, "held-out accuracy", "eval/accuracy")
    table += _rate(run, "held-out loss", "eval/loss")
    for key, label in COLUMNS.items():
        if run.series(key):
            table.append((label, [_value(run, key, round, MEASURES[key].form) for round in rounds]))
    series = run.series("seconds/round")
    if series:
        table.append(("time", [duration(series[round]) if round in series else ABSENT for round in rounds]))
    alarms = [", ".join(visible(alarm.name) for alarm in raised(metrics)) for metrics in run.metrics.values()]
    return [*table, ("alarms", alarms)] if any(alarms) else table


def sources(run: Run) -> list[list[str]]:
    """A header and a line for each source of prompts=mixture: prompts and pairs of all rounds, the last values."""
    metrics = {"source/{}/reward": "reward", "eval/win_rate/{}": "win rate", "eval/loss/{}": "held-out loss"}
    names = [name.removesuffix("/prompts") for name in run.names("source/") if name.endswith("/prompts")]
    given = {form: label for form, label in metrics.items() if any(run.series(form.format(name)) for name in names)}
    table = [["source", "prompts", "pairs", *given.values()]] if names else []
    for name in names:
        totals = [sum(run.series(f"source/{name}/{what}").values()) for what in ("prompts", "pairs")]
        keys = [form.format(name) for form in given]
        last = [_value(run, key, max(run.series(key))) if run.series(key) else ABSENT for key in keys]
        table.append([visible(name), *(number(total, ",.0f") for total in totals), *last])
    return table


def _tasks(run: Run) -> list[list[str]]:
    """A header and the rows of `rlhf-flow eval --tasks`."""
    results = results_of(run.folder)
    return [["task", "metric", *map(run.private.text, results)], *rows(results)] if results else []


def _rate(run: Run, label: str, key: str) -> Iterator[tuple[str, list[str]]]:
    rate, low, high = (run.series(f"{key}{end}") for end in ("", "_low", "_high"))
    forms = {round: supported(".3f", low.get(round), high.get(round)) for round in run.metrics}
    if rate:
        yield label, [number(rate.get(round), form) for round, form in forms.items()]
    if low or high:
        ends = [(number(low.get(round), form), number(high.get(round), form)) for round, form in forms.items()]
        yield "95 % interval", [ABSENT if pair == (ABSENT, ABSENT) else f"{pair[0]}–{pair[1]}" for pair in ends]


def _everything(run: Run) -> list[tuple[str, list[str]]]:
    keys = sorted({key for values in run.metrics.values() for key in values})
    return [(key, [short(values[key]) if key in values else ABSENT for values in run.metrics.values()]) for key in keys]


# -- configuration and manifest ---------------------------------------------------------------------------------------


def _config(run: Run) -> str:
    """YAML without private values."""
    if not run.config:
        return ""
    return yaml.safe_dump(run.private.value("", run.config), sort_keys=False, allow_unicode=True, width=120)


def _manifest(run: Run) -> list[tuple[str, str]]:
    return leaves("starts", [run.private.value("", start) for start in run.starts])
