"""Weights & Biases: the metrics of every round, offline without an account, or online."""

from __future__ import annotations

import secrets
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from rlhf_flow.observe.settings import WandbSettings, flat
from rlhf_flow.types import RoundRecord

if TYPE_CHECKING:
    from wandb.sdk.wandb_run import Run


@dataclass
class Wandb:
    """One W&B run per run folder, for all its starts; the id is in `<run_dir>/wandb/id`.

    Online, the server knows the next step. Offline, the folder of this start holds the whole run and replaces those of
    earlier starts, so that `wandb sync` uploads each round once.
    """

    run: Run

    @classmethod
    def open(
        cls, run_dir: Path, records: Sequence[RoundRecord], config: Mapping[str, object], settings: WandbSettings
    ) -> Wandb:
        try:
            import wandb
        except ImportError as error:
            raise ValueError(
                f"observe.wandb.mode={settings.mode} needs the package wandb, which is not installed. "
                "Run `pip install wandb`, or set observe.wandb.mode=disabled."
            ) from error
        name = run_dir.resolve().name
        id = _id(run_dir / "wandb" / "id", name)
        earlier = sorted((run_dir / "wandb").glob(f"offline-run-*-{id}"))
        try:
            run = wandb.init(
                dir=run_dir,
                id=id,
                resume="allow",
                project=settings.project,
                name=settings.name or name,
                config=dict(config),
                mode="offline" if settings.mode == "offline" else "online",
                settings=wandb.Settings(silent=True, console="off"),  # off: the live view would fill the log
            )
        except wandb.errors.UsageError as error:
            raise ValueError(
                f"observe.wandb.mode={settings.mode}: W&B refused the run ({error}). "
                "Run `wandb login` first, or set observe.wandb.mode=offline."
            ) from error
        observer = cls(run=run)
        for record in records:
            if record.round >= run.starting_step:  # the server has the earlier steps
                observer.round(record)
        if settings.mode == "offline":
            for folder in earlier:
                shutil.rmtree(folder)
        return observer

    def stage(self, round: int, name: str, done: int, total: int, unit: str, detail: str = "") -> None:
        pass

    def round(self, record: RoundRecord) -> None:
        self.run.log({"round": record.round, **flat(record)}, step=record.round, commit=True)

    def close(self) -> None:
        self.run.finish()


def _id(path: Path, name: str) -> str:
    """The W&B id of the run, made by its first start. A moved folder keeps it; a new folder gets a new one."""
    if not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True)
        letters = "".join(letter if letter.isascii() and letter.isalnum() else "-" for letter in name)
        temporary = path.with_name(".id")
        temporary.write_text(f"{letters[:40]}-{secrets.token_hex(4)}\n", encoding="utf-8")
        temporary.replace(path)
    return path.read_text(encoding="utf-8").strip()
