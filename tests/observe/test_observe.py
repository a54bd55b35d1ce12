"""Which observers a run has, and what they cost those who have none."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any, ClassVar

import pytest
from omegaconf import OmegaConf

from rlhf_flow.config.compose import compose
from rlhf_flow.config.overrides import expanded
from rlhf_flow.observe import Observe, Observer
from rlhf_flow.observe.settings import MlflowSettings, ObservedRun, TrackioSettings, WandbSettings
from rlhf_flow.types import RoundRecord


def test_settings_compose() -> None:
    settings = Observe(tensorboard=True, wandb=WandbSettings(mode="offline", name="first"))
    assert OmegaConf.to_object(OmegaConf.structured(settings)) == settings


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"mode": "on"}, "observe.wandb.mode must be one of disabled, offline, online, got 'on'"),
        ({"project": " "}, "observe.wandb.project must not be empty"),
        ({"name": ""}, "observe.wandb.name must not be empty"),
    ],
)
def test_a_wrong_setting_is_named(settings: dict[str, str], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        WandbSettings(**settings)


def test_nobody_watches(tmp_path: Path) -> None:
    assert Observe(console="none").open(tmp_path, [], {}) == []
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("observe", "package", "instead"),
    [
        (Observe(wandb=WandbSettings(mode="offline")), "wandb", "observe.wandb.mode=disabled"),
        (Observe(tensorboard=True), "tensorboard", "observe.tensorboard=false"),
        (Observe(mlflow=MlflowSettings(uri="sqlite:///x.db")), "mlflow", "observe.mlflow.uri=null"),
        (Observe(trackio=TrackioSettings(project="mine")), "trackio", "observe.trackio.project=null"),
    ],
)
def test_a_missing_package_is_named_with_the_way_out_before_any_worker_starts(
    monkeypatch: pytest.MonkeyPatch, observe: Observe, package: str, instead: str
) -> None:
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(ValueError, match=rf"observe\..*rlhf-flow\[{package}\].*or use {instead}"):
        observe.check()


class Counting(Observer):
    """Needs one method of three."""

    opened: ClassVar[list[ObservedRun]] = []
    rounds: ClassVar[list[int]] = []

    def __init__(self, run: ObservedRun) -> None:
        self.opened.append(run)

    def round(self, record: RoundRecord) -> None:
        self.rounds.append(record.round)


def test_a_class_of_the_user_observes(tmp_path: Path, record: Callable[[int], RoundRecord]) -> None:
    config = compose("experiment=sandbox", *expanded([f"observe={__name__}.Counting"]))
    (observer,) = replace(config.observe, console="none").open(tmp_path, [record(0)], {"seed": 7})
    observer.stage(1, "sample", 0, 1, "prompts")
    observer.round(record(1))
    observer.close()
    assert [run.config for run in Counting.opened] == [{"seed": 7}]
    assert Counting.rounds == [1]


class Silent(Observer):
    """Needs no method at all."""


class Shy:
    """Has no way to hear of a run."""


class Other(Shy):
    """Hears of stages only."""

    def __init__(self, run: ObservedRun) -> None:
        return

    def stage(self, *reported: object) -> None:
        return


class Short(Observer):
    """Expects less than a run tells."""

    def stage(self, round: int, name: str) -> None:  # type: ignore[override]
        return


def test_the_least_observer_can_be_opened(tmp_path: Path) -> None:
    (observer,) = Observe(console="none", classes=[f"{__name__}.Silent"]).open(tmp_path, [], {})
    observer.close()


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("nowhere.Mine", r"observe\.classes=nowhere\.Mine: importing it failed.*Fix: put its folder on PYTHONPATH"),
        (f"{__name__}.Missing", "importing it failed with AttributeError: module .* has no attribute 'Missing'"),
        (f"{__name__}.__name__", "it is not callable. Fix: name a class"),
        (f"{__name__}.Shy", r"has the parameters \(\): too many positional arguments. Fix: take \(run\)"),
        (f"{__name__}.Other", r"has no method round. Fix: derive it from rlhf_flow\.observe\.Observer"),
        (
            f"{__name__}.Short",
            r"method stage has the parameters .*Fix: take \(self, round, name, done, total, unit, det",
        ),
    ],
)
def test_a_class_that_cannot_observe_is_named_before_any_worker_starts(name: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Observe(classes=[name]).check()


def test_an_observer_that_fails_to_open_closes_the_others(tmp_path: Path) -> None:
    class Closed(Counting):
        closed: ClassVar[list[bool]] = []

        def close(self) -> None:
            self.closed.append(True)

    globals()["Closed"] = Closed
    with pytest.raises(ValueError, match="nowhere"):
        Observe(console="none", classes=[f"{__name__}.Closed", "nowhere.Mine"]).open(tmp_path, [], {})
    assert Closed.closed == [True]


@pytest.mark.parametrize(("given", "shown"), [("true", "auto"), ("False", "none"), ("json", "json")])
def test_values_of_an_earlier_version_are_known(given: str, shown: str) -> None:
    assert Observe(console=given).shown == shown


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"console": "loud"}, "observe.console must be one of auto, screen"),
        ({"samples": -1}, "observe.samples must be >= 0"),
        ({"classes": ["Mine"]}, "must be written module.Class"),
    ],
)
def test_a_wrong_key_of_observers_is_named(wrong: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Observe(**wrong)


def test_an_unknown_artifact_is_named() -> None:
    with pytest.raises(ValueError, match=r"observe\.mlflow\.artifacts: 'weights' is no kind of artifact"):
        MlflowSettings(artifacts=["weights"])


def test_a_configuration_needs_none_of_the_packages() -> None:
    program = (
        "import sys, rlhf_flow.observe, rlhf_flow.report\n"
        "print(sorted({'torch', 'wandb', 'tensorboard', 'rich', 'jinja2'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
