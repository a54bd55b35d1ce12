"""An objective that is given as an instance, in place of a name."""

from __future__ import annotations

from dataclasses import is_dataclass
from importlib import import_module

from rlhf_flow.system.errors import ConfigError, brief


def check_objective(key: str, objective: object) -> None:
    """Raise ConfigError if it is no objective: an instance of a dataclass with needs, at and loss."""
    if isinstance(objective, type):
        raise ConfigError(f"{key}={objective.__name__}: expected an instance", f"{objective.__name__}()")
    if isinstance(objective, str):
        raise ConfigError(
            f"{key}={objective!r}: expected an instance of a class, not a name",
            "Mine() of a class of yours; keys={'objective': NAME} chooses one that ships",
        )
    if not is_dataclass(objective):
        raise ConfigError(
            f"{key}={brief(objective)}: expected an instance of a dataclass",
            "@dataclass(frozen=True) on the class, and Mine()",
        )
    if missing := [name for name in ("needs", "at", "loss") if name not in dir(objective)]:
        raise ConfigError(
            f"{key}={brief(objective)}: it has no {missing[0]}", "write it as rlhf_flow.protocols.Objective has it"
        )


def check_importable(objective: object) -> None:
    """Raise ValueError if a resume could not make the objective again from its class and fields."""
    check_objective("objective", objective)
    kind = type(objective)
    if vars(import_module(kind.__module__)).get(kind.__qualname__) is not kind:
        raise ValueError(
            f"objective={brief(objective)}: its class is inside of a function or a class, where a resume cannot find "
            "it. Fix: define it at the top level of a module or of a notebook."
        )
