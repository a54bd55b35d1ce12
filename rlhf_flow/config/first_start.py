"""What a run keeps of its first start, with which its weights repeat bit for bit."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import yaml

from rlhf_flow.config import renamed
from rlhf_flow.config.schema import RunConfig


def of_first_start(run_dir: Path) -> Mapping[str, Any] | None:
    """The training settings that the learner of a run began with; None for a new run."""
    path = run_dir / "config.yaml"
    if not path.is_file():
        return None
    written: Any = renamed.configuration(yaml.safe_load(path.read_text(encoding="utf-8")))
    training: Mapping[str, Any] = written.get("learner", {}).get("training") or {}
    return training


def with_precision(config: RunConfig) -> RunConfig:
    """The configuration with the precision of the run's first start, unless it has one itself."""
    begun = (of_first_start(Path(config.run_dir)) or {}).get("precision")
    if begun is None:
        return config
    learner, refresh = config.learner, config.refresh
    if "training" in {field.name for field in fields(learner)} and learner.training.precision is None:
        learner = replace(learner, training=replace(learner.training, precision=begun))
    if refresh.training.precision is None:
        refresh = replace(refresh, training=replace(refresh.training, precision=begun))
    return replace(config, learner=learner, refresh=refresh)
