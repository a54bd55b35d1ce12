"""Weights & Biases: metrics, samples and artifacts of a run, offline without an account, or online."""

from __future__ import annotations

import shutil
from dataclasses import dataclass
from typing import TYPE_CHECKING

from rlhf_flow.observe.run_id import run_id
from rlhf_flow.observe.samples import COLUMNS_OF_CHANGES, rows_of
from rlhf_flow.observe.settings import ObservedRun, Observer, WandbSettings, flat
from rlhf_flow.types import RoundRecord

if TYPE_CHECKING:
    from wandb.sdk.wandb_run import Run


@dataclass
class Wandb(Observer):
    """One W&B run per run folder, for all its starts; the id is in `<run_dir>/wandb/id`.

    Online, the server knows the next step. Offline, the folder of this start holds the whole run and replaces those of
    earlier starts, so that `wandb sync` uploads each round once.
    """

    observed: ObservedRun
    run: Run
    artifacts: tuple[str, ...] = ()
    _last: int | None = None  # round that is committed

    @classmethod
    def open(cls, observed: ObservedRun, settings: WandbSettings) -> Wandb:
        import wandb

        id = run_id(observed.folder / "wandb" / "id", observed.name)
        earlier = sorted((observed.folder / "wandb").glob(f"offline-run-*-{id}"))
        try:
            run = wandb.init(
                dir=observed.folder,
                id=id,
                resume="allow",
                project=settings.project,
                group=observed.group,
                name=settings.name or observed.name,
                config=dict(observed.config),
                mode="offline" if settings.mode == "offline" else "online",
                settings=wandb.Settings(silent=True, console="off"),  # off: the live view would fill the log
            )
        except wandb.errors.UsageError as error:
            raise ValueError(
                f"observe.wandb.mode={settings.mode}: W&B refused the run ({error}). "
                "Fix: wandb login, or observe.wandb.mode=offline."
            ) from error
        observer = cls(observed, run, tuple(settings.artifacts))
        for record in observed.records:
            observer._last = record.round
            if record.round >= run.starting_step:  # the server has the earlier steps
                observer.round(record)
        if settings.mode == "offline":
            for folder in earlier:
                shutil.rmtree(folder)
        return observer

    def round(self, record: RoundRecord) -> None:
        logged: dict[str, object] = {"round": record.round, **flat(record)}
        if rows := rows_of(self.observed.changes(record.round)):
            import wandb

            logged["samples"] = wandb.Table(columns=list(COLUMNS_OF_CHANGES), data=rows)
        self.run.log(logged, step=record.round, commit=True)
        self._last = record.round

    def close(self) -> None:
        """Upload the artifacts of the last round, also if this start ran none: W&B keeps the same content once."""
        import wandb

        for kind, folder in () if self._last is None else self.observed.artifacts(self.artifacts, self._last):
            artifact = wandb.Artifact(f"{self.run.id}-{kind}", type=kind, metadata={"round": self._last})
            artifact.add_dir(str(folder))
            self.run.log_artifact(artifact)
        self.run.finish()
