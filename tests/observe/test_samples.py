"""Which held-out answers of a round are shown: those that changed most since the last one, and not the same again."""

from __future__ import annotations

from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from rlhf_flow.observe.samples import Samples, compared_file


def evaluated(run_dir: Path, round: int, utilities: dict[str, float]) -> None:
    """Prompts and the utility of their answers; the start's is 0."""
    rows = [
        {"prompt_id": id, "prompt": id, "start": "s", "answer": f"{id}{value}", "utility": value, "start_utility": 0.0}
        for id, value in utilities.items()
    ]
    path = compared_file(run_dir, round)
    path.parent.mkdir(parents=True)
    pq.write_table(pa.Table.from_pylist(rows), path)


def shown(samples: Samples, round: int) -> list[str]:
    since = samples.at(round)
    assert since is not None
    return [change.prompt_id for change in since.changes]


def test_each_round_shows_what_changed_since_the_last_one(tmp_path: Path) -> None:
    evaluated(tmp_path, 1, {"a": 9.0, "b": 5.0, "c": 1.0, "d": 0.5})
    evaluated(tmp_path, 3, {"a": 9.5, "b": 5.0, "c": 4.0, "d": 0.5})  # round 2 was not evaluated
    samples = Samples(tmp_path, 2)
    assert shown(samples, 1) == ["a", "b"]
    assert shown(samples, 3) == ["c", "d"], "a changed more than d, but was shown in the round before"
    assert samples.at(2) is None
    assert samples.at(0) is None
    last = samples.at(3)
    assert last is not None
    assert (last.round, last.of) == (1, 4)
    assert (last.changes[0].before, last.changes[0].after) == ("c1.0", "c4.0")


def test_a_resumed_run_shows_what_an_uninterrupted_one_does(tmp_path: Path) -> None:
    for round in (1, 2, 3):
        evaluated(tmp_path, round, {"a": 9.0 * round, "b": 5.0 * round, "c": 1.0, "d": 0.5})
    in_order = Samples(tmp_path, 2)
    assert [shown(in_order, round) for round in (1, 2, 3)][-1] == shown(Samples(tmp_path, 2), 3)
