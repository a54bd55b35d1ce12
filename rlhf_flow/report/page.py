"""The page of a run: what it shows, in the order it shows it. How that looks is in page.html and page.css."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TypeVar

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from rlhf_flow.observe.line import duration
from rlhf_flow.report.chart import curve, fold, stack
from rlhf_flow.report.folder import Answer, Run
from rlhf_flow.report.text import clipped, number, short, visible

Item = TypeVar("Item")

JUDGE, PROXY = "Judge of the evaluation", "Judge of training (proxy)"
STAGES = ["sample", "score", "select", "anchor", "learn", "publish", "evaluate"]  # in the order of a round
SHOWN = 12  # answers of the last round that are shown side by side; of earlier rounds a third of that
EARLIER = 6  # earlier rounds whose answers are shown
LOST = 4  # answers that lost against the start's most clearly
CLIP = 4000  # characters of a text


@dataclass(frozen=True)
class Figure:
    title: str
    note: str
    picture: Markup
    layers: tuple[tuple[str, tuple[str, ...]], ...] = ()  # of a stack: name, value per round


@dataclass(frozen=True)
class Group:
    """Answers side by side."""

    title: str
    note: str
    answers: tuple[Answer, ...]
    open: bool


def render(run: Run) -> str:
    """The same folder gives the same page, to the byte."""
    environment = Environment(
        loader=PackageLoader("rlhf_flow.report", package_path="."),
        autoescape=True,  # everything that a model or a user wrote is escaped
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {"number": number, "whole": visible, "text": lambda text: clipped(visible(text), CLIP)}
    return environment.get_template("page.html").render(
        run=run,
        status=_status(run),
        headline=_headline(run),
        tiles=list(_tiles(run)),
        cautions=_cautions(run),
        sections=[
            ("Is it better?", list(_results(run))),
            ("What did it become?", list(_changes(run))),
            ("Aspects of the judge", list(_aspects(run))),
            ("Learning", list(_learning(run))),
            ("Where the rounds went", list(_stacks(run))),
        ],
        columns=columns(run),
        everything=_everything(run),
        groups=list(_groups(run)),
    )


# -- the top ----------------------------------------------------------------------------------------------------------


def _status(run: Run) -> str:
    of = "" if run.rounds is None else f" of {run.rounds}"
    return f"rounds: {run.done}{of}, {'finished' if run.finished else 'not finished'}"


def _headline(run: Run) -> tuple[str, str] | None:
    """The win rate that was measured last, and what it rests on. Against itself the start proves nothing: not shown."""
    measured = {round: value for round, value in run.series("eval/win_rate").items() if round > 0}
    if not measured:
        return None
    last = max(measured)
    low, high = (run.metrics[last].get(f"eval/win_rate_{end}") for end in ("low", "high"))
    interval = "" if low is None or high is None else f"95 % interval {number(low)} to {number(high)}, "
    return number(measured[last]), f"{interval}after round {last}"


def _tiles(run: Run) -> Iterator[tuple[str, str, str, str]]:
    """Label, the value that was measured last, its unit, and where it came from."""
    for label, key, form in (
        (JUDGE, "eval/reward", ".3f"),
        (PROXY, "eval/proxy", ".3f"),
        ("KL from the start", "eval/kl", ".2f"),
        ("Length", "eval/length", ".1f"),
        ("Cut at the limit", "eval/truncated", ".1%"),
        ("Distinct answers", "eval/distinct", ".1%"),
    ):
        series = run.series(key)
        if series:
            first, last = min(series), max(series)
            unit = {"eval/kl": "nats", "eval/length": "tokens"}.get(key, "")
            before = f"{number(series[first], form)} in round {first}" if first != last else f"in round {last}"
            yield label, number(series[last], form), unit, before


def _cautions(run: Run) -> list[str]:
    """What a reader should know before trusting a curve."""
    keys = sorted({key for values in run.metrics.values() for key in values})
    bad = [(key, [at for at, value in run.series(key).items() if number(value) in ("NaN", "∞", "−∞")]) for key in keys]
    broken = [f"{visible(key)} is no finite number in round {', '.join(map(str, at))}" for key, at in bad if at]
    return [*map(visible, run.warnings), *broken]


# -- figures ----------------------------------------------------------------------------------------------------------


def _curves(run: Run, *wanted: tuple[str, str, str, int]) -> Iterator[Figure]:
    """A figure for each (title, key, note, colour) that was measured at all."""
    for title, key, note, colour in wanted:
        series = run.series(key)
        if series:
            yield Figure(title, note, curve(title, series, rounds=run.metrics, colour=colour))


def _results(run: Run) -> Iterator[Figure]:
    rate = run.series("eval/win_rate")
    if rate:
        low, high = run.series("eval/win_rate_low"), run.series("eval/win_rate_high")
        picture = curve("Win rate", rate, rounds=run.metrics, low=low, high=high, base=0.5)
        yield Figure("Win rate", "against the start, held-out prompts; shaded: 95 % interval over prompts", picture)
    both = "" if run.series("eval/proxy") else ", which training uses too"

    def by(judge: str | None) -> str:
        return "" if judge is None else f", by {visible(judge)}"

    yield from _curves(
        run,
        (JUDGE, "eval/reward", f"mean over held-out answers{by(run.judge)}{both}", 2),
        (PROXY, "eval/proxy", f"the same answers{by(run.proxy)}", 6),
    )
    distance = run.series("eval/gap")
    if distance:
        title, note = "Duality gap", "to the equilibrium of the judge's preferences: 0 there and nowhere else"
        yield Figure(title, note, curve(title, distance, rounds=run.metrics, base=0.0, colour=3))


def _changes(run: Run) -> Iterator[Figure]:
    yield from _curves(
        run,
        ("KL from the start", "eval/kl", "nats per answer, mean over held-out answers", 5),
        ("Length", "eval/length", "tokens per held-out answer", 4),
        ("Cut at the limit", "eval/truncated", "share of held-out answers without an end", 3),
        ("Distinct answers", "eval/distinct", "different texts, as a share of the held-out answers", 7),
    )
    styles = {name: run.series(f"eval/style/{name}") for name in run.names("eval/style/")}
    yield from _stack(run, "Styles", "share of the held-out answers that have each style", styles)


def _aspects(run: Run) -> Iterator[Figure]:
    return _curves(
        run,
        *(
            (visible(name), f"eval/aspect/{name}", "mean over held-out answers", 2)
            for name in run.names("eval/aspect/")
        ),
    )


def _learning(run: Run) -> Iterator[Figure]:
    return _curves(
        run,
        ("Loss", "train/loss", "mean over the pairs of the round", 1),
        ("Margin", "train/margin", "implicit reward of the better answer over the worse", 5),
        ("Accuracy", "train/accuracy", "share of pairs whose better answer has the higher implicit reward", 4),
        ("Reward of the samples", "reward/mean", "the judge that training uses, on the answers it was trained with", 6),
    )


def _stacks(run: Run) -> Iterator[Figure]:
    seconds = {name: run.series(f"seconds/{name}") for name in run.names("seconds/") if name != "round"}
    ordered = sorted(seconds, key=lambda name: (STAGES.index(name) if name in STAGES else len(STAGES), name))
    layers = {name: seconds[name] for name in ordered} | _between(run, seconds)
    yield from _stack(run, "Time", "seconds of each stage", layers)
    pairs = {name: run.series(f"pairs/{name}") for name in run.names("pairs/")}
    yield from _stack(run, "Pairs", "each considered pair has one bucket", pairs)
    # responses/sampled is the total, not a bucket
    buckets = {name: run.series(f"responses/{name}") for name in run.names("responses/") if name != "sampled"}
    yield from _stack(run, "Responses", "each response has one bucket", buckets)


def _between(run: Run, seconds: Mapping[str, Mapping[int, float]]) -> dict[str, dict[int, float]]:
    """The part of a round that no stage accounts for: the driver's own."""
    left = {
        round: total - sum(stage.get(round, 0.0) for stage in seconds.values())
        for round, total in run.series("seconds/round").items()
    }
    return {"between stages": left} if any(value > 0 for value in left.values()) else {}


def _stack(run: Run, title: str, note: str, layers: Mapping[str, Mapping[int, float]]) -> Iterator[Figure]:
    rounds = sorted({round for layer in layers.values() for round in layer})
    if rounds:
        shown = fold({visible(name): layer for name, layer in layers.items()})
        table = tuple(
            (name, tuple("" if at not in layer else short(layer[at]) for at in rounds)) for name, layer in shown.items()
        )
        header = ("round", tuple(map(str, rounds)))
        yield Figure(title, note, stack(title, shown, rounds=rounds), (header, *table))


# -- tables -----------------------------------------------------------------------------------------------------------


def columns(run: Run) -> list[tuple[str, list[str]]]:
    """The table of rounds, column by column; a measure that no round has is left out."""
    rounds = list(run.metrics)
    table = [("round", [str(round) for round in rounds])]
    rate, low, high = (run.series(f"eval/win_rate{end}") for end in ("", "_low", "_high"))
    if rate:
        table.append(("win rate", [number(rate.get(round)) for round in rounds]))
    if low or high:
        ends = [(number(low.get(round)), number(high.get(round))) for round in rounds]
        table.append(("95 % interval", ["—" if pair == ("—", "—") else f"{pair[0]}–{pair[1]}" for pair in ends]))
    for label, key, form in (
        ("judge", "eval/reward", ".3f"),
        ("proxy", "eval/proxy", ".3f"),
        ("gap", "eval/gap", ".3f"),
        ("KL", "eval/kl", ".2f"),
        ("length", "eval/length", ".1f"),
        ("cut", "eval/truncated", ".1%"),
        ("distinct", "eval/distinct", ".1%"),
        ("loss", "train/loss", ".4f"),
        ("accuracy", "train/accuracy", ".1%"),
    ):
        series = run.series(key)
        if series:
            table.append((label, [number(series.get(round), form) for round in rounds]))
    series = run.series("seconds/round")
    if series:
        table.append(("time", [duration(series[round]) if round in series else "—" for round in rounds]))
    return table


def _everything(run: Run) -> list[tuple[str, list[str]]]:
    keys = sorted({key for values in run.metrics.values() for key in values})
    return [(key, [short(values[key]) if key in values else "—" for values in run.metrics.values()]) for key in keys]


# -- answers ----------------------------------------------------------------------------------------------------------


def spread(items: Sequence[Item], wanted: int) -> list[Item]:
    """`wanted` of the items, evenly spaced, the first and the last among them."""
    if len(items) <= wanted:
        return list(items)
    return [items[at * (len(items) - 1) // max(wanted - 1, 1)] for at in range(wanted)]


def _groups(run: Run) -> Iterator[Group]:
    if not run.answered:
        return
    last = run.answered[-1]
    answers = run.answers(last)
    shown = spread(answers, SHOWN)
    note = f"{len(shown)} of {len(answers)} held-out prompts, evenly spaced: not chosen by how the answers turned out"
    yield Group(f"After round {last}", note, tuple(shown), open=True)
    lost = sorted(
        (answer.win, answer.prompt_id, at)
        for at, answer in enumerate(answers)
        if answer.win is not None and answer.win < 0.5
    )
    if lost:
        worst = tuple(answers[at] for _, _, at in lost[:LOST])
        note = f"the {len(worst)} clearest of {len(lost)} answers that the judge likes less than the start's"
        yield Group(f"After round {last}: worse than before", note, worst, open=False)
    for round in reversed(spread(run.answered[:-1], EARLIER)):
        answers = run.answers(round)
        shown = spread(answers, SHOWN // 3)
        yield Group(
            f"After round {round}", f"{len(shown)} of {len(answers)} held-out prompts", tuple(shown), open=False
        )
