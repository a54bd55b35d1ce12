"""MLflow: metrics, samples and artifacts of a run, in a local database or on a tracking server."""

from __future__ import annotations

import math
import re
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING

from rlhf_flow.observe.run_id import written
from rlhf_flow.observe.samples import COLUMNS_OF_CHANGES, rows_of
from rlhf_flow.observe.settings import MlflowSettings, ObservedRun, Observer, flat
from rlhf_flow.types import RoundRecord

if TYPE_CHECKING:
    from mlflow import MlflowClient

LONGEST = 500  # characters of a parameter, of which the server takes no more
PER_BATCH = 100  # parameters in one request


@dataclass
class Mlflow(Observer):
    """One MLflow run per run folder, for all its starts; the id is in `<run_dir>/mlflow/id`.

    A round that was logged before is not logged again: MLflow keeps every value that it gets.
    """

    observed: ObservedRun
    client: MlflowClient
    id: str
    artifacts: tuple[str, ...] = ()
    _last: int | None = None  # round that this start logged

    @classmethod
    def open(cls, observed: ObservedRun, settings: MlflowSettings) -> Mlflow:
        from mlflow import MlflowClient

        client = MlflowClient(tracking_uri=settings.uri)
        observer = cls(observed, client, _id(client, observed, settings), tuple(settings.artifacts))
        client.update_run(observer.id, status="RUNNING")
        known = {point.step for point in client.get_metric_history(observer.id, "round")}
        for record in observed.records:
            if record.round not in known:
                observer.round(record)
        observer._last = None
        return observer

    def round(self, record: RoundRecord) -> None:
        from mlflow.entities import Metric

        now = int(time.time() * 1000)
        finite = {key: value for key, value in flat(record).items() if math.isfinite(value)}
        rows = rows_of(self.observed.changes(record.round))
        if rows:
            table = dict(zip(COLUMNS_OF_CHANGES, map(list, zip(*rows, strict=True)), strict=True))
            self.client.log_table(self.id, {"round": [record.round] * len(rows), **table}, "samples.json")
        metrics = [Metric(_key(key), float(value), now, record.round) for key, value in finite.items()]
        # last, so that an interrupted round is logged again
        self.client.log_batch(self.id, metrics=[*metrics, Metric("round", float(record.round), now, record.round)])
        self._last = record.round

    def close(self) -> None:
        if self._last is not None:
            for kind, folder in self.observed.artifacts(self.artifacts, self._last):
                self.client.log_artifacts(self.id, str(folder), f"{kind}/round-{self._last}")
        self.client.set_terminated(self.id)


def _id(client: MlflowClient, observed: ObservedRun, settings: MlflowSettings) -> str:
    """The id of the run, made by its first start, with the configuration as parameters."""
    from mlflow.entities import Param

    path = observed.folder / "mlflow" / "id"
    if path.exists():
        return path.read_text(encoding="utf-8").strip()
    experiment = client.get_experiment_by_name(settings.experiment)
    at = client.create_experiment(settings.experiment) if experiment is None else experiment.experiment_id
    tags = {} if observed.group is None else {"group": observed.group}
    id = str(client.create_run(at, run_name=observed.name, tags=tags).info.run_id)
    params = [Param(_key(key), str(value)[:LONGEST]) for key, value in observed.config.items()]
    for first in range(0, len(params), PER_BATCH):
        client.log_batch(id, params=params[first : first + PER_BATCH])
    written(path, id)
    return id


def _key(name: str) -> str:
    """A name with the characters that MLflow takes."""
    return re.sub(r"[^\w./ -]", "_", name)
