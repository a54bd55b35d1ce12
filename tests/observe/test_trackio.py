"""trackio: one run of theirs per run folder, every round in it once. Needs the package, which is optional."""

from __future__ import annotations

from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path

import pytest

from rlhf_flow.observe.samples import Samples
from rlhf_flow.observe.settings import ObservedRun, TrackioSettings
from rlhf_flow.observe.trackio import Trackio
from rlhf_flow.types import RoundRecord
from tests.observe.test_samples import evaluated

if find_spec("trackio") is None:
    pytest.skip("the extra `trackio` is in no lock file", allow_module_level=True)

from trackio import sqlite_storage as storage

pytestmark = pytest.mark.slow


def test_each_round_is_logged_once_over_many_starts(
    tmp_path: Path, record: Callable[[int], RoundRecord], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(storage, "TRACKIO_DIR", tmp_path / "store")
    evaluated(tmp_path, 1, {"a": 9.0, "b": 5.0})
    for known, then in ((0, 2), (3, 4), (4, 4)):  # round 2 was committed and not logged
        records = [record(at) for at in range(known)]
        observer = Trackio.open(
            ObservedRun(tmp_path, records, {"seed": 7}, samples=Samples(tmp_path)), TrackioSettings(project="mine")
        )
        for round in range(known, then):
            observer.round(record(round))
        observer.close()
    name = (tmp_path / "trackio" / "id").read_text().strip()
    logs = storage.SQLiteStorage.get_logs("mine", name)
    assert [(log["step"], log["eval/kl"]) for log in logs] == [(at, float(at)) for at in range(4)]
    assert [log["step"] for log in logs if "samples" in log] == [1]
