"""A run's folder, as a reader finds it: metrics, answers, configuration. Nothing is written."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import yaml

COLUMNS = ["prompt_id", "prompt", "start", "answer", "win", "utility", "start_utility", "length", "truncated"]


@dataclass(frozen=True)
class Answer:
    """The answers of the start and of a later policy to one held-out prompt."""

    prompt_id: str
    prompt: str
    start: str
    answer: str
    win: float | None  # P(the answer beats the start's)
    utility: float | None
    start_utility: float | None
    length: int | None  # tokens
    truncated: bool | None


@dataclass(frozen=True)
class Run:
    """What a run left behind so far; anything but the folder itself may be missing."""

    folder: Path
    name: str
    rounds: int | None  # that were asked for
    judge: str | None  # of the evaluation
    proxy: str | None  # the judge of training, where it is another
    finished: bool
    metrics: Mapping[int, Mapping[str, float]]  # round -> key -> value, in order; only what was measured
    config: str  # YAML
    manifest: tuple[tuple[str, str], ...]
    warnings: tuple[str, ...]  # what the starts of the run warned of, each once
    answered: tuple[int, ...]  # rounds after the start whose answers can be compared with the start's

    @property
    def done(self) -> int:
        """Rounds of learning that were finished; round 0 is the start."""
        return sum(round > 0 for round in self.metrics)

    def series(self, key: str) -> dict[int, float]:
        """round -> value, where it was measured."""
        return {round: values[key] for round, values in self.metrics.items() if key in values}

    def names(self, prefix: str) -> list[str]:
        """What follows `prefix` in the keys of any round, in the order of the alphabet."""
        keys = {key for values in self.metrics.values() for key in values}
        return sorted(key.removeprefix(prefix) for key in keys if key.startswith(prefix) and key != prefix)

    def answers(self, round: int) -> list[Answer]:
        """In the order of the file. Raises ValueError, naming the file, where it cannot be read."""
        path = _compared(self.folder, round)
        try:
            return [Answer(**row) for row in pq.read_table(path, columns=COLUMNS).to_pylist()]
        except (pa.ArrowException, TypeError, UnicodeDecodeError) as error:
            raise ValueError(
                f"{path} is no table of answers ({error}). Restore it, or delete it to do without."
            ) from error


def read(folder: Path) -> Run:
    """Raises ValueError where `folder` holds no run, or a file of it cannot be read."""
    if not (folder / "config.yaml").exists() and not (folder / "metrics.jsonl").exists():
        raise ValueError(
            f"{folder} holds no run: neither config.yaml nor metrics.jsonl is there. Name the run's folder."
        )
    text = _text(folder / "config.yaml")
    config = _config(folder / "config.yaml", text)
    rounds = config.get("rounds")
    metrics = _metrics(folder / "metrics.jsonl")
    manifest = _json(folder / "manifest.json")
    judge, proxy = _judges(config)
    return Run(
        folder=folder,
        name=folder.resolve().name,
        rounds=rounds if isinstance(rounds, int) else None,
        judge=judge,
        proxy=proxy,
        finished=(folder / "final.json").exists(),
        metrics=metrics,
        config=text,
        manifest=tuple(_leaves("", manifest)),
        warnings=tuple(dict.fromkeys(_warnings(manifest))),
        answered=tuple(round for round in metrics if round > 0 and _compared(folder, round).exists()),
    )


def _compared(folder: Path, round: int) -> Path:
    return folder / "rounds" / f"{round:05d}" / "evaluation" / "compared.parquet"


def _text(path: Path) -> str:
    return path.read_text(encoding="utf-8", errors="replace") if path.exists() else ""


def _config(path: Path, text: str) -> Mapping[str, object]:
    try:
        config = yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise ValueError(f"{path} is no YAML: {error}") from error
    return config if isinstance(config, dict) else {}


def _metrics(path: Path) -> dict[int, dict[str, float]]:
    metrics: dict[int, dict[str, float]] = {}
    for number, line in enumerate(_text(path).splitlines(), start=1):
        try:
            row = json.loads(line)
            round = int(row.pop("round"))
        except (json.JSONDecodeError, AttributeError, KeyError, TypeError) as error:
            raise ValueError(
                f"{path}, line {number}: expected a JSON object with the key round, got {line!r:.80}"
            ) from error
        if round in metrics:
            raise ValueError(f"{path}, line {number}: round {round} is there twice")
        metrics[round] = {key: float(value) for key, value in row.items() if isinstance(value, int | float)}
    return dict(sorted(metrics.items()))


def _json(path: Path) -> object:
    if not path.exists():
        return {}
    try:
        value: object = json.loads(_text(path))
    except json.JSONDecodeError as error:
        raise ValueError(f"{path} is no JSON: {error}") from error
    return value


def _warnings(manifest: object) -> Iterator[str]:
    starts = manifest.get("starts") if isinstance(manifest, dict) else None
    for start in starts if isinstance(starts, list) else []:
        told = start.get("warnings") if isinstance(start, dict) else None
        yield from map(str, told if isinstance(told, list) else [])


def _judges(config: Mapping[str, object]) -> tuple[str | None, str | None]:
    """Of the evaluation, and of training where it is another."""
    evaluate = config.get("evaluate")
    own = evaluate.get("scorer") if isinstance(evaluate, dict) else None
    training = _judge(config.get("scorer"))
    return (_judge(own), training) if own else (training, None)


def _judge(judge: object) -> str | None:
    """`rule: package.function`, `reward_model: folder`: its kind, and what tells it from others of its kind."""
    if not isinstance(judge, dict):
        return str(judge) if judge else None
    target = str(judge.get("_target_", "")).split(".")
    kind = target[-2] if len(target) > 1 else "".join(target)
    which = [str(judge[key]) for key in ("function", "path") if judge.get(key)]
    return ": ".join([kind, *which[:1]] if kind else which[:1]) or None


def _leaves(key: str, value: object) -> Iterator[tuple[str, str]]:
    """`versions.torch`, `2.13.0`: nested JSON as lines that can be read one by one."""
    children: list[tuple[str, object]] = []
    if isinstance(value, dict):
        children = [(str(name), child) for name, child in value.items()]
    elif isinstance(value, list) and any(isinstance(item, dict | list) for item in value):
        children = [(str(index), child) for index, child in enumerate(value)]
    elif key:
        yield key, value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
    for name, child in children:
        yield from _leaves(f"{key}.{name}" if key else name, child)
