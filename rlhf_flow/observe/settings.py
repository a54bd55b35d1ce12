"""The protocol of observers, and their settings."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

from rlhf_flow.types import RoundRecord

MODES = ("disabled", "offline", "online")


class Observer(Protocol):
    """Receives the progress of a run. It is opened with the committed records, so it receives each round once."""

    def stage(self, round: int, name: str, done: int, total: int, unit: str, detail: str = "") -> None:
        """`done` of `total` units (tokens, pairs, ...) of a stage are done; `done == total` ends the stage.

        `detail`: further information, such as the loss of the latest steps.
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
                f"observe.wandb.mode must be one of {', '.join(MODES)}, got {self.mode!r}. Fix: use offline, which "
                "needs no account; `wandb sync` uploads such a run later."
            )
        if not self.project.strip():
            raise ValueError("observe.wandb.project must not be empty. Fix: name a project, or leave it at rlhf-flow.")
        if self.name is not None and not self.name.strip():
            raise ValueError("observe.wandb.name must not be empty. Fix: use null for the name of the run's folder.")


def flat(record: RoundRecord) -> dict[str, float]:
    """A record as observers log it: its metrics, and `seconds/<stage>`."""
    return {**record.metrics, **{f"seconds/{stage}": value for stage, value in record.seconds.items()}}
