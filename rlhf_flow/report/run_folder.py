"""Reads a run's folder: metrics, answers, configuration. Read-only."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import yaml

from rlhf_flow.config import renamed
from rlhf_flow.observe.samples import Answer, answers, compared_file
from rlhf_flow.report.private import Private
from rlhf_flow.storage.run_policies import fix_of

Document = Mapping[str, object]


@dataclass(frozen=True)
class Run:
    """The files of a run so far; any of them may be missing."""

    folder: Path
    name: str
    finished: bool
    metrics: Mapping[int, Mapping[str, float]]  # round -> key -> value, in order; only what was measured
    config: Document
    starts: tuple[Document, ...]  # the record of each start of the run
    deaths: tuple[tuple[int, str], ...]  # round and message of each worker that died
    answered: tuple[int, ...]  # rounds after the start whose answers can be compared with the start's
    private: Private

    @property
    def rounds(self) -> int | None:
        """The configured number of rounds."""
        rounds = self.config.get("rounds")
        return rounds if isinstance(rounds, int) else None

    @property
    def done(self) -> int:
        """The number of finished rounds of training; round 0 is the start."""
        return sum(round > 0 for round in self.metrics)

    @property
    def warnings(self) -> tuple[str, ...]:
        """The warnings of all starts, each once."""
        recorded = [start.get("warnings") for start in self.starts]
        lines = [str(line) for one in recorded if isinstance(one, list) for line in one]
        return tuple(dict.fromkeys(map(self.private.text, lines)))

    def series(self, key: str) -> dict[int, float]:
        """round -> value, for the rounds that measured it."""
        return {round: values[key] for round, values in self.metrics.items() if key in values}

    def names(self, prefix: str) -> list[str]:
        """The keys of all rounds that begin with `prefix`, without it, sorted."""
        keys = {key for values in self.metrics.values() for key in values}
        return sorted(key.removeprefix(prefix) for key in keys if key.startswith(prefix) and key != prefix)

    def answers(self, round: int) -> list[Answer]:
        """In the order of the file. Raises ValueError, naming the file, if it cannot be read."""
        return answers(self.folder, round)


def read(folder: Path) -> Run:
    """Raises ValueError if `folder` holds no run, or a file of it cannot be read."""
    if not (folder / "config.yaml").exists() and not (folder / "metrics.jsonl").exists():
        raise ValueError(f"{folder} holds no run: it has neither config.yaml nor metrics.jsonl. Fix: {fix_of(folder)}.")
    config = _config(folder / "config.yaml")
    metrics = {round: _numbers(row) for round, row in _rounds(folder / "metrics.jsonl")}
    starts = _starts(folder / "manifest.json")
    return Run(
        folder=folder,
        name=folder.resolve().name,
        finished=(folder / "final.json").exists(),
        metrics=dict(sorted(metrics.items())),
        config=config,
        starts=starts,
        deaths=_deaths(folder / "events.jsonl"),
        answered=tuple(round for round in sorted(metrics) if round > 0 and compared_file(folder, round).exists()),
        private=Private.of(config, starts, str(folder.resolve())),
    )


def _text(path: Path) -> str:
    return path.read_text(encoding="utf-8", errors="replace") if path.exists() else ""


def _config(path: Path) -> Document:
    try:
        config = yaml.safe_load(_text(path))
    except yaml.YAMLError as error:
        raise ValueError(f"{path} is no YAML: {error}") from error
    found = renamed.configuration(config)
    return found if isinstance(found, dict) else {}


def _rounds(path: Path) -> list[tuple[int, dict[str, object]]]:
    """The lines of a JSONL file by their key `round`. Raises ValueError if a round occurs twice."""
    rows = _lines(path)
    seen: set[int] = set()
    for number, (round, _) in enumerate(rows, start=1):
        if round in seen:
            raise ValueError(f"{path}, line {number}: round {round} is there twice")
        seen.add(round)
    return rows


def _lines(path: Path) -> list[tuple[int, dict[str, object]]]:
    rows = []
    for number, line in enumerate(_text(path).splitlines(), start=1):
        try:
            row = json.loads(line)
            rows.append((int(row.pop("round")), row))
        except (json.JSONDecodeError, AttributeError, KeyError, TypeError) as error:
            raise ValueError(
                f"{path}, line {number}: expected a JSON object with the key round, got {line!r:.80}"
            ) from error
    return rows


def _numbers(row: Mapping[str, object]) -> dict[str, float]:
    return {key: float(value) for key, value in row.items() if isinstance(value, int | float)}


def _deaths(path: Path) -> tuple[tuple[int, str], ...]:
    return tuple((round, str(row.get("message", ""))) for round, row in _lines(path) if row.get("event") == "death")


def _starts(path: Path) -> tuple[Document, ...]:
    if not path.exists():
        return ()
    try:
        manifest: object = json.loads(_text(path))
    except json.JSONDecodeError as error:
        raise ValueError(f"{path} is no JSON: {error}") from error
    starts = manifest.get("starts") if isinstance(manifest, dict) else None
    return tuple(start for start in (starts if isinstance(starts, list) else []) if isinstance(start, dict))


def leaves(key: str, value: object) -> list[tuple[str, str]]:
    """Nested JSON as pairs of dotted key and text: `versions.torch`, `2.13.0`."""
    children: Sequence[tuple[str, object]] = []
    if isinstance(value, Mapping):
        children = [(str(name), child) for name, child in value.items()]
    elif isinstance(value, list) and any(isinstance(item, dict | list) for item in value):
        children = [(str(index), child) for index, child in enumerate(value)]
    elif key:
        return [(key, value if isinstance(value, str) else json.dumps(value, ensure_ascii=False))]
    return [pair for name, child in children for pair in leaves(f"{key}.{name}" if key else name, child)]
