"""Observers of a run: the terminal, TensorBoard, Weights & Biases, MLflow, trackio, and classes of the user's.

None of them affects what a run computes.
"""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from itertools import chain
from pathlib import Path
from typing import TextIO

from rlhf_flow.observe.console import JsonEvents, Lines, Warnings, write_event
from rlhf_flow.observe.mlflow import Mlflow
from rlhf_flow.observe.samples import Samples
from rlhf_flow.observe.settings import MlflowSettings, ObservedRun, TrackioSettings, WandbSettings
from rlhf_flow.observe.settings import Observer as Observer
from rlhf_flow.observe.tensorboard import TensorBoard
from rlhf_flow.observe.trackio import Trackio
from rlhf_flow.observe.user_class import Opener, imported
from rlhf_flow.observe.wandb import Wandb
from rlhf_flow.system.optional_deps import require
from rlhf_flow.types import RoundRecord

CONSOLES = ("auto", "screen", "lines", "quiet", "json", "none")
OLD = {"true": "auto", "false": "none"}  # the values of `console` in version 0.1


@dataclass(frozen=True)
class Observe:
    """Which observers a run has. They are not part of its identity: a resumed run may have others."""

    console: str = "auto"  # auto (screen on a terminal) | screen | lines | quiet (warnings only) | json (events) | none
    log: bool = True  # the output of libraries goes to run_dir/log.txt, and its end is shown if the run fails
    samples: int = 3  # held-out answers a round that the screen shows and observers log; 0: none
    group: str | None = None  # of runs in W&B, MLflow and trackio; null: the sweep, with --multirun
    tensorboard: bool = False  # event files under run_dir/tensorboard
    wandb: WandbSettings = field(default_factory=WandbSettings)
    mlflow: MlflowSettings = field(default_factory=MlflowSettings)
    trackio: TrackioSettings = field(default_factory=TrackioSettings)
    classes: list[str] = field(default_factory=list)  # module.Class of your own: Class(run) is an observer

    def __post_init__(self) -> None:
        if self.shown not in CONSOLES:
            raise ValueError(
                f"observe.console must be one of {', '.join(CONSOLES)}, got {self.console!r}. "
                "Fix: observe.console=auto."
            )
        if self.samples < 0:
            raise ValueError(f"observe.samples must be >= 0, got {self.samples}. Fix: observe.samples=3.")
        for name in self.classes:
            if "." not in name or not all(part.isidentifier() for part in name.split(".")):
                raise ValueError(
                    f"observe.classes={name}: it must be written module.Class. Fix: observe=my_lab.MyObserver."
                )

    @property
    def shown(self) -> str:
        """One of `CONSOLES`."""
        return OLD.get(self.console.lower(), self.console)

    def has_screen(self, out: TextIO) -> bool:
        return self.shown == "screen" or (self.shown == "auto" and out.isatty())

    def open(
        self,
        run_dir: Path,
        records: Sequence[RoundRecord],
        config: Mapping[str, object],
        out: TextIO | None = None,
        more: Sequence[Opener] = (),
    ) -> list[Observer]:
        """The observers of this start of the run. `records`: the rounds that earlier starts committed.

        `out`: of the console; by default stdout. `more`: besides those of the settings.

        Raises ValueError if one refuses its settings.
        """
        run = ObservedRun(
            run_dir, records, config, self.group, Samples(run_dir, self.samples) if self.samples else None
        )
        with contextlib.ExitStack() as opened:
            observers: list[Observer] = []
            for opener in chain((opener for *_, opener in self._libraries()), map(imported, self.classes), more):
                observers.append(opener(run))
                opened.callback(observers[-1].close)
            if (console := self._console(run, out or sys.stdout)) is not None:
                observers.append(console)
            opened.pop_all()  # the caller closes them
        return observers

    def check(self) -> None:
        """Raise MissingError for a package that is not installed, ValueError for a class that cannot be imported."""
        for package, key, _ in self._libraries():
            require(package, part=key.partition("=")[0], instead=key)
        for name in self.classes:
            imported(name)

    def conclude(self, report: Path, *, table: Callable[[], str], samples: Callable[[], str], on_screen: bool) -> None:
        """Print how a run ended. `on_screen`: this start ran rounds, so that a screen already shows the table."""
        if self.shown == "json":
            write_event(sys.stdout, "end", report=str(report))
        elif self.shown != "quiet":
            if not (on_screen and self.has_screen(sys.stdout)):
                print(table())
                print(samples())
            print(f"report: {report}")

    def _libraries(self) -> Iterator[tuple[str, str, Opener]]:
        """Of each library in use: its package, the key that turns it off, and its observer."""
        if self.tensorboard:
            yield "tensorboard", "observe.tensorboard=false", TensorBoard.open
        if self.wandb.mode != "disabled":
            yield "wandb", "observe.wandb.mode=disabled", partial(Wandb.open, settings=self.wandb)
        if self.mlflow.uri is not None:
            yield "mlflow", "observe.mlflow.uri=null", partial(Mlflow.open, settings=self.mlflow)
        if self.trackio.project is not None:
            yield "trackio", "observe.trackio.project=null", partial(Trackio.open, settings=self.trackio)

    def _console(self, run: ObservedRun, out: TextIO) -> Observer | None:
        from rlhf_flow.observe.screen import Screen

        if self.has_screen(out):
            return Screen.open(run, out)
        match self.shown:
            case "json":
                return JsonEvents(run, out)
            case "quiet":
                return Warnings(run, out)
            case "none":
                return None
        return Lines(run, out)
