"""trackio: metrics and samples of a run, on a dashboard of this machine or in a Space of the hub."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

from rlhf_flow.observe.run_id import run_id, written
from rlhf_flow.observe.samples import COLUMNS_OF_CHANGES, rows_of
from rlhf_flow.observe.settings import ObservedRun, Observer, TrackioSettings, flat
from rlhf_flow.types import RoundRecord

if TYPE_CHECKING:
    from trackio import Run


@dataclass
class Trackio(Observer):
    """One trackio run per run folder, for all its starts: its name is in `<run_dir>/trackio/id`.

    `<run_dir>/trackio/round` is the last round that was logged; later rounds are logged when the run is opened again.
    """

    observed: ObservedRun
    run: Run

    @classmethod
    def open(cls, observed: ObservedRun, settings: TrackioSettings) -> Trackio:
        import trackio

        run = trackio.init(
            project=settings.project,
            name=run_id(observed.folder / "trackio" / "id", observed.name),
            group=observed.group,
            space_id=settings.space,
            config=dict(observed.config),
            resume="allow",
            embed=False,
        )
        observer = cls(observed, run)
        logged = observed.folder / "trackio" / "round"
        last = int(logged.read_text()) if logged.exists() else -1
        for record in observed.records:
            if record.round > last:
                observer.round(record)
        return observer

    def round(self, record: RoundRecord) -> None:
        logged: dict[str, object] = {key: value for key, value in flat(record).items() if math.isfinite(value)}
        if rows := rows_of(self.observed.changes(record.round)):
            import pandas as pd
            import trackio

            logged["samples"] = trackio.Table(dataframe=pd.DataFrame(rows, columns=list(COLUMNS_OF_CHANGES)))
        self.run.log(logged, step=record.round)
        written(self.observed.folder / "trackio" / "round", str(record.round))

    def close(self) -> None:
        self.run.finish()
