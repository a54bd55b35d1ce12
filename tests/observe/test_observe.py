"""Which observers a run has, and what they cost those who have none."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from omegaconf import OmegaConf

from rlhf_flow.observe import Observe
from rlhf_flow.observe.settings import WandbSettings


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
    assert Observe(console=False).open(tmp_path, [], {}) == []
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("observe", "package"),
    [
        (Observe(console=False, wandb=WandbSettings(mode="offline")), "wandb"),
        (Observe(console=False, tensorboard=True), "torch.utils.tensorboard"),
    ],
)
def test_a_missing_package_is_named_with_the_way_out(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, observe: Observe, package: str
) -> None:
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(ValueError, match=f"Run `pip install {package.split('.')[-1]}`, or set observe"):
        observe.open(tmp_path, [], {})


def test_a_configuration_needs_none_of_the_packages() -> None:
    program = (
        "import sys, rlhf_flow.observe, rlhf_flow.report\n"
        "print(sorted({'torch', 'wandb', 'tensorboard', 'rich', 'jinja2'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
