"""The names that a configuration was composed from: algorithm=online_dpo, selector=best_and_worst."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import TypeAlias

from omegaconf import DictConfig, open_dict, read_write

Choices: TypeAlias = Mapping[str, str]  # group, or group@slot -> the name of the part or file
UNKNOWN: Choices = MappingProxyType({})  # of a configuration that was read from a file


def choices(composed: Mapping[str, str | None]) -> Choices:
    """Of `runtime.choices` in Hydra's own configuration, without the empty ones and those of groups of Hydra."""
    return {group: name for group, name in composed.items() if name is not None and not group.startswith("hydra/")}


def without_hydra(composed: DictConfig) -> DictConfig:
    """The composed configuration, from which Hydra's own is deleted."""
    with read_write(composed), open_dict(composed):
        del composed["hydra"]
    return composed
