"""An objective that is given as an instance, in place of a name."""

from __future__ import annotations

from dataclasses import is_dataclass
from importlib import import_module


def check_importable(objective: object) -> None:
    """Raise ValueError if a resume could not make the objective again from its class and fields."""
    kind = type(objective)
    if not is_dataclass(kind):
        raise ValueError(
            f"objective={objective!r}: expected an instance of a dataclass. Fix: @dataclass(frozen=True) on the class, "
            "and objective=Mine()."
        )
    if vars(import_module(kind.__module__)).get(kind.__qualname__) is not kind:
        raise ValueError(
            f"objective={objective!r}: its class is inside of a function or a class, where a resume cannot find it. "
            "Fix: define it at the top level of a module or of a notebook."
        )
