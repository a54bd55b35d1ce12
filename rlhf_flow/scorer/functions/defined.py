"""Functions of a notebook, a script or a lambda: no module can be imported to find them, so they are kept here by name.

Scorers that call functions open in the process that starts the run, so these functions work with every cluster.
"""

from __future__ import annotations

import hashlib
import sys
from collections.abc import Callable, Mapping
from types import CodeType, FunctionType
from typing import Any

MODULE = "notebook"  # in place of a module's name, in configurations
_DEFINED: dict[str, Callable[..., Any]] = {}  # of the run that starts

Functions = dict[str, Callable[..., Any]]


def named(function: Callable[..., Any], functions: Functions) -> str:
    """The name by which a configuration finds a function: module.function, or notebook.function.

    A function of the second kind is added to `functions`, those of one run. A lambda is notebook.function. Raises
    ValueError if the object is no Python function.
    """
    if not isinstance(function, FunctionType):
        raise ValueError(
            f"reward={function!r}: expected a Python function. Fix: lambda prompt, answer, meta: mine(prompt, answer)."
        )
    module, name = function.__module__, function.__qualname__
    if module != "__main__" and vars(sys.modules.get(module, sys)).get(name) is function:
        return f"{module}.{name}"
    short = function.__name__ if function.__name__.isidentifier() else "function"
    free = (f"{MODULE}.{short}{number}" for number in ("", *range(2, len(functions) + 3)))
    own = next(name for name in free if functions.get(name, function) is function)
    functions[own] = function
    return own


def install(functions: Mapping[str, Callable[..., Any]]) -> None:
    """Let configurations find the functions of one run, and no others."""
    _DEFINED.clear()
    _DEFINED.update(functions)


def defined(name: str) -> Callable[..., Any] | None:
    """The installed function of this name; None for the name of a module's function.

    Raises ValueError if the name is one of `named` and is not installed.
    """
    if name.rpartition(".")[0] == MODULE and name not in _DEFINED:
        own = name.rpartition(".")[2]
        raise ValueError(
            f"{name} was defined in a notebook or script, and this call does not have it. Fix: define it and pass "
            f"it again: rlhf_flow.resume(folder, reward={own}), or keys={{key: {own}}} if another key named it; "
            "rlhf-flow eval takes scorer=rule scorer.function=module.name."
        )
    return _DEFINED.get(name)


def is_defined(function: Callable[..., Any]) -> bool:
    """Whether the function is installed."""
    return any(one is function for one in _DEFINED.values())


def code_hash(function: Callable[..., Any]) -> str:
    """A hash of the code of a Python function, its defaults, and the numbers and texts that it captures.

    It does not depend on the function's place and comments. The code is the one that this version of Python compiles.
    """
    assert isinstance(function, FunctionType)
    cells = [cell.cell_contents for cell in function.__closure__ or ()]
    captured = [value for value in cells if isinstance(value, bool | int | float | str)]
    described = (_described(function.__code__), function.__defaults__, function.__kwdefaults__, captured)
    return hashlib.sha256(repr(described).encode()).hexdigest()


def _described(constant: object) -> object:
    if isinstance(constant, CodeType):
        return constant.co_code, constant.co_names, [_described(inner) for inner in constant.co_consts]
    return sorted(map(repr, constant)) if isinstance(constant, frozenset) else constant
