"""The configuration of a run from its folder, with the keys that a resume changes."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import yaml
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override, OverrideType
from omegaconf import DictConfig, OmegaConf

from rlhf_flow.config import renamed
from rlhf_flow.config.compatibility import check
from rlhf_flow.config.compose import from_plain, leaves, parts, register
from rlhf_flow.config.schema import GROUPS, RunConfig
from rlhf_flow.config.stored import check_secrets, plain_of_run

FIXED = ("answers", "algorithm", "experiment", "stack", "reward")  # the parts in config.yaml hold what these set


def resumed(folder: Path, overrides: Sequence[str] = ()) -> RunConfig:
    """The checked configuration that the run in `folder` was last started with, under `overrides` (key=value).

    Raises ValueError if the folder holds no run or an override cannot be applied, and the errors of OmegaConf.
    """
    register()
    node = OmegaConf.create(plain_of_run(folder))
    node.run_dir = str(folder.resolve())
    given = [_parsed(override) for override in overrides]
    for one in sorted(given, key=lambda one: one.key_or_group not in GROUPS):  # a part before its keys
        _apply(node, one)
    plain = OmegaConf.to_container(node)
    check_secrets(leaves(plain))
    config = from_plain(plain)
    check(config)
    return config


def start_folder(folder: Path) -> Path | None:
    """The folder that the run's last start ran in, which its relative paths are in; None if it is not recorded."""
    path = folder / "manifest.json"
    written: Any = yaml.safe_load(path.read_text(encoding="utf-8")) if path.is_file() else {}
    recorded = written["starts"][-1].get("folder") if written.get("starts") else None
    return Path(recorded) if recorded and Path(recorded).is_dir() else None


def _parsed(override: str) -> Override:
    renamed.refuse(override)
    parsed = OverridesParser.create().parse_override(override)
    if parsed.type is not OverrideType.CHANGE or parsed.is_sweep_override():
        raise ValueError(f"{override}: a resume changes single keys. Fix: key=value.")
    if parsed.key_or_group.partition(".")[0] in FIXED:
        raise ValueError(
            f"{override}: the run has begun with its parts, and a resume cannot choose them again. "
            "Fix: leave it out, or start a new run with another run_dir."
        )
    return parsed


def _apply(node: DictConfig, override: Override) -> None:
    key, value = override.key_or_group, override.value()
    if key in GROUPS:
        slot = override.package or key
        if not isinstance(value, str) or value not in parts(key):
            raise ValueError(f"{slot}={value}: resume knows these parts: {', '.join(parts(key))}. Fix: one of them.")
        part = parts(key)[value]
        chosen = {"_target_": f"{part.__module__}.{part.__qualname__}"}
        if OmegaConf.select(node, f"{slot}._target_") != chosen["_target_"]:
            OmegaConf.update(node, slot, chosen, merge=False)
    else:
        OmegaConf.update(node, key, value, merge=True)
