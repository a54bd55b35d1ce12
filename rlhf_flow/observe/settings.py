"""The protocol of observers, and their settings."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

from rlhf_flow.observe.samples import Samples, Since
from rlhf_flow.types import RoundRecord

MODES = ("disabled", "offline", "online")
ARTIFACTS = ("policy", "pairs", "samples")


class Observer(Protocol):
    """Receives the progress of a run. A subclass needs only the methods that it uses.

    It is opened with the committed records (`ObservedRun`), so it receives each round once.
    """

    def __init__(self, run: ObservedRun) -> None:
        """This start of the run begins."""
        return

    def stage(self, round: int, name: str, done: int, total: int, unit: str, detail: str = "") -> None:
        """`done` of `total` units (tokens, pairs, ...) of a stage are done; `done == total` ends the stage.

        `detail`: further information, such as the loss of the latest steps.
        """
        return

    def round(self, record: RoundRecord) -> None:
        """A round was committed."""
        return

    def close(self) -> None:
        """This start of the run ends, by itself or by an error."""
        return


@dataclass(frozen=True)
class ObservedRun:
    """What an observer is opened with."""

    folder: Path
    records: Sequence[RoundRecord]  # of the rounds that earlier starts committed
    config: Mapping[str, object]  # full key -> value
    group: str | None = None  # the sweep that the run belongs to
    samples: Samples | None = None  # None: none are wanted

    @property
    def name(self) -> str:
        return self.folder.resolve().name

    @property
    def rounds(self) -> int | None:
        """Of the whole run."""
        rounds = self.config.get("rounds")
        return rounds if isinstance(rounds, int) else None

    @property
    def max_tokens(self) -> int | None:
        """The tokens at which answers are cut; None if draws differ."""
        limits = {
            value
            for key, value in self.config.items()
            if key.startswith("sampler.") and key.endswith(".max_tokens") and isinstance(value, int)
        }
        return limits.pop() if len(limits) == 1 else None

    def changes(self, round: int) -> Since | None:
        """The held-out answers that changed most in a round; None if it evaluated none, or none are wanted."""
        return None if self.samples is None else self.samples.at(round)

    def artifacts(self, kinds: Sequence[str], round: int) -> Iterator[tuple[str, Path]]:
        """Kind and folder of those of `ARTIFACTS` that a round has."""
        folders = {"policy": "policy", "pairs": "pairs", "samples": "evaluation"}
        for kind in kinds:
            path = self.folder / "rounds" / f"{round:05d}" / folders[kind]
            if path.is_dir() and any(path.iterdir()):
                yield kind, path


@dataclass(frozen=True)
class WandbSettings:
    """Weights & Biases. `offline` needs no account: `wandb sync` uploads the run later."""

    mode: str = "disabled"  # disabled | offline | online
    project: str = "rlhf-flow"  # of Weights & Biases
    name: str | None = None  # null: the name of the run's folder
    artifacts: list[str] = field(default_factory=list)  # of the last round: policy, pairs, samples

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
        check_artifacts("observe.wandb.artifacts", self.artifacts)


@dataclass(frozen=True)
class MlflowSettings:
    """MLflow: a local folder or database, or a tracking server."""

    uri: str | None = None  # sqlite:///mlflow.db, or a server's address; null: do not log
    experiment: str = "rlhf-flow"  # its name
    artifacts: list[str] = field(default_factory=list)  # of the last round: policy, pairs, samples

    def __post_init__(self) -> None:
        check_artifacts("observe.mlflow.artifacts", self.artifacts)


@dataclass(frozen=True)
class TrackioSettings:
    """trackio: a dashboard on this machine, or in a Space of the hub."""

    project: str | None = None  # null: do not log
    space: str | None = None  # owner/name of a Space; null: this machine


def check_artifacts(key: str, kinds: Sequence[str]) -> None:
    """Raise ValueError if a kind is unknown."""
    if wrong := [kind for kind in kinds if kind not in ARTIFACTS]:
        raise ValueError(f"{key}: {wrong[0]!r} is no kind of artifact. Fix: some of {', '.join(ARTIFACTS)}.")


def flat(record: RoundRecord) -> dict[str, float]:
    """A record as observers log it: its metrics, and `seconds/<stage>`."""
    return {**record.metrics, **{f"seconds/{stage}": value for stage, value in record.seconds.items()}}
