"""What broke during a run is on disk at once, in the round in which it did."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

from rlhf_flow.observe.events import Events
from rlhf_flow.types import RoundRecord


def written(path: Path) -> list[tuple[int, str]]:
    return [(line["round"], line["message"]) for line in map(json.loads, path.read_text().splitlines())]


def test_each_death_is_written_once_in_its_round(tmp_path: Path, record: Callable[[int], RoundRecord]) -> None:
    deaths, path = ["of an earlier run"], tmp_path / "events.jsonl"
    events = Events(path, lambda: deaths)
    events.stage(0, "evaluate", 0, 1, "rounds")
    assert not path.exists(), "a run without a death leaves no file"
    deaths.append("engine 0\ndied")
    events.stage(1, "sample", 0, 10, "prompts")
    events.stage(1, "sample", 5, 10, "prompts")
    deaths += ["scorer died", "rank died"]
    events.round(record(1))
    deaths.append("engine 1 died, one too many")
    events.close()
    events.close()
    died = [(1, "engine 0\ndied"), (1, "scorer died"), (1, "rank died"), (1, "engine 1 died, one too many")]
    assert written(path) == died
    later = Events(path, lambda: deaths)
    later.stage(2, "sample", 0, 10, "prompts")
    deaths.append("again")
    later.stage(2, "sample", 0, 10, "prompts")
    assert written(path) == [*died, (2, "again")]
