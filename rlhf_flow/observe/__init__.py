"""Observers of a run: the terminal, TensorBoard, Weights & Biases. None of them affects what a run computes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from rlhf_flow.observe.settings import Observer, WandbSettings
from rlhf_flow.types import RoundRecord


@dataclass(frozen=True)
class Observe:
    """Which observers a run has. They are not part of its identity: a resumed run may have others."""

    console: bool = True  # one line a round, and progress bars on a terminal
    tensorboard: bool = False  # event files under run_dir/tensorboard
    wandb: WandbSettings = field(default_factory=WandbSettings)

    def open(self, run_dir: Path, records: Sequence[RoundRecord], config: Mapping[str, object]) -> list[Observer]:
        """The observers of this start of the run. `records`: the rounds that earlier starts committed.

        Raises ValueError, naming the package to install, if an observer's package is missing.
        """
        from rlhf_flow.observe.console import Console
        from rlhf_flow.observe.tensorboard import TensorBoard
        from rlhf_flow.observe.wandb import Wandb

        observers: list[Observer] = []
        if self.tensorboard:
            observers.append(TensorBoard.open(run_dir, records))
        if self.wandb.mode != "disabled":
            observers.append(Wandb.open(run_dir, records, config, self.wandb))
        if self.console:  # last: if another observer fails to open, no live view is left running
            observers.append(Console.open(run_dir, records, config))
        return observers
