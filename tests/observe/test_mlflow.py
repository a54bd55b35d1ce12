"""MLflow: one run of theirs per run folder, every round in it once. Needs the package, which is optional."""

from __future__ import annotations

from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path

import pytest

from rlhf_flow.observe.mlflow import Mlflow
from rlhf_flow.observe.samples import Samples
from rlhf_flow.observe.settings import MlflowSettings, ObservedRun
from rlhf_flow.types import RoundRecord
from tests.observe.test_samples import evaluated

if find_spec("mlflow") is None:
    pytest.skip("the extra `mlflow` is in no lock file", allow_module_level=True)

pytestmark = pytest.mark.slow


def test_each_round_is_logged_once_over_many_starts(
    tmp_path: Path, record: Callable[[int], RoundRecord], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)  # where a local database keeps its artifacts
    evaluated(tmp_path, 3, {"a": 9.0, "b": 5.0})
    settings = MlflowSettings(uri=f"sqlite:///{tmp_path}/mlflow.db", artifacts=["samples", "policy"])

    def start(rounds: int) -> Mlflow:
        records = [record(at) for at in range(rounds)]
        run = ObservedRun(tmp_path, records, {"seed": 7}, group="sweep", samples=Samples(tmp_path))
        return Mlflow.open(run, settings)

    killed = start(0)
    for round in (0, 1):
        killed.round(record(round))
    resumed = start(3)  # round 2 was committed and not logged
    resumed.round(record(3))
    resumed.close()
    again = start(4)
    again.close()
    points = again.client.get_metric_history(again.id, "eval/kl")
    assert [(point.step, point.value) for point in points] == [(at, float(at)) for at in range(4)]
    known = again.client.get_run(again.id)
    assert (known.data.params, known.data.tags["group"], known.info.status) == ({"seed": "7"}, "sweep", "FINISHED")
    assert [file.path for file in again.client.list_artifacts(again.id)] == ["samples", "samples.json"]
