"""Who watches a run: the terminal, TensorBoard, Weights & Biases. None of them can change it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

from rlhf_flow.types import RoundRecord

MODES = ("disabled", "offline", "online")


class Observer(Protocol):
    """What a watcher is told. It is opened with the records that are already committed, so no round is told twice."""

    def stage(self, round: int, name: str, done: int, total: int, unit: str, detail: str = "") -> None:
        """`done` of `total` units (tokens, pairs, ...) of a stage are there; `done == total` ends the stage.

        `detail` says how the stage goes so far, such as the loss of the latest steps.
        """
        ...

    def round(self, record: RoundRecord) -> None:
        """A round was committed."""
        ...

    def close(self) -> None: ...


@dataclass(frozen=True)
class WandbSettings:
    """Weights & Biases. `offline` needs no account: `wandb sync` uploads the run later."""

    mode: str = "disabled"  # disabled, offline or online
    project: str = "rlhf-flow"  # of Weights & Biases
    name: str | None = None  # null: the name of the run's folder

    def __post_init__(self) -> None:
        if self.mode not in MODES:
            raise ValueError(
                f"observe.wandb.mode must be one of {', '.join(MODES)}, got {self.mode!r}. "
                "`offline` needs no account; `wandb sync` uploads such a run later."
            )
        if not self.project.strip():
            raise ValueError("observe.wandb.project must not be empty. Name a project, or leave it at rlhf-flow.")
        if self.name is not None and not self.name.strip():
            raise ValueError("observe.wandb.name must not be empty. Use null for the name of the run's folder.")


@dataclass(frozen=True)
class Observe:
    """Which observers a run has. They are no part of its identity: a resumed run may have others."""

    console: bool = True  # a line a round, and bars on a terminal
    tensorboard: bool = False  # event files under run_dir/tensorboard
    wandb: WandbSettings = field(default_factory=WandbSettings)

    def open(self, run_dir: Path, records: Sequence[RoundRecord], config: Mapping[str, object]) -> list[Observer]:
        """The observers of this start of the run; `records` are the rounds that earlier starts committed.

        Raises ValueError, naming what to install, where the package of an observer is missing.
        """
        from rlhf_flow.observe.console import Console
        from rlhf_flow.observe.tensorboard import TensorBoard
        from rlhf_flow.observe.wandb import Wandb

        observers: list[Observer] = []
        if self.tensorboard:
            observers.append(TensorBoard.open(run_dir, records))
        if self.wandb.mode != "disabled":
            observers.append(Wandb.open(run_dir, records, config, self.wandb))
        if self.console:  # last: nothing that fails to open leaves a live view behind
            observers.append(Console.open(run_dir, records, config))
        return observers


def flat(record: RoundRecord) -> dict[str, float]:
    """A record as observers log it: its metrics, and `seconds/<stage>`."""
    return {**record.metrics, **{f"seconds/{stage}": value for stage, value in record.seconds.items()}}
