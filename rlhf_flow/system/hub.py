"""Tells paths and names on the hub apart, so that a path that does not exist is refused before the hub is asked."""

from __future__ import annotations

from pathlib import Path

from rlhf_flow.system.errors import ConfigError


def is_path(name: str) -> bool:
    """Whether it is written as a path: it begins with `.`, `/` or `~`, is deeper than owner/name, or its parent exists.

    A name on the hub is owner/name; old data sets have no owner.
    """
    return name.startswith((".", "/", "~")) or name.count("/") > 1 or ("/" in name and Path(name).parent.is_dir())


def is_model_name(name: str) -> bool:
    """Whether it has the form of a model's name on the hub, owner/name."""
    return "/" in name and not is_path(name)


def check_model(key: str, value: str) -> None:
    """Raise ConfigError if `value` is neither a folder nor has the form of a model's name on the hub."""
    if not Path(value).is_dir() and not is_model_name(value):
        raise missing_model(key, value)


def check_dataset(key: str, value: str) -> None:
    """Raise ConfigError if `value` is written as a path and does not exist."""
    if is_path(value) and not Path(value).exists():
        raise _missing(key, value, "the folder of a data set, or a data set on the hub as owner/name")


def missing_model(key: str, value: str) -> ConfigError:
    """The error for the path of a model that does not exist."""
    return _missing(key, value, "the folder of a Hugging Face checkpoint, or a model on the hub as owner/name")


def _missing(key: str, value: str, wanted: str) -> ConfigError:
    remedy = f"name {wanted}"
    if value.startswith("~") and (meant := Path(value).expanduser()).exists():  # no shell expands it after key=
        remedy = f"{key}={meant}"
    return ConfigError(f"{key}={value}: no such folder", remedy)
