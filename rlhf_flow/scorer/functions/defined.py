"""Functions of a notebook, a script or a lambda: no module can be imported to find them, so they are kept here by name.

Scorers that call functions open in the process that starts the run, so these functions work with every cluster.
"""

from __future__ import annotations

import hashlib
import sys
from collections.abc import Callable, Iterable, Mapping
from functools import partial
from inspect import isroutine, signature
from types import CodeType, FunctionType, MethodType
from typing import Any

from rlhf_flow.system.errors import ConfigError, brief

MODULE = "notebook"  # in place of a module's name, in configurations
_DEFINED: dict[str, Callable[..., Any]] = {}  # of the run that starts

Functions = dict[str, Callable[..., Any]]


def named(function: Any, functions: Functions, key: str = "reward") -> str:  # noqa: ANN401  # any value
    """The name by which a configuration finds a function: module.function, or notebook.function.

    A function of the second kind is added to `functions`, those of one run; so is any other object that can be called.
    A lambda is notebook.function. `key`: for errors. Raises ConfigError if the object cannot be called, or is a class.
    """
    if not callable(function) or isinstance(function, type):
        raise ConfigError(
            f"{key}={brief(function)}: expected a function (prompt, answer, meta)",
            "an instance of the class" if isinstance(function, type) else "a function, a lambda or a callable object",
        )
    if isinstance(function, FunctionType):
        module, name = function.__module__, function.__qualname__
        if module != "__main__" and vars(sys.modules.get(module, sys)).get(name) is function:
            return f"{module}.{name}"
    word: str = code_of(function).__name__
    short = word if word.isidentifier() else "function"
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


def code_of(function: Any) -> Any:  # noqa: ANN401  # a function, or the class of an object that can be called
    """What holds the code of an object that can be called: a function or a class."""
    match function:
        case partial():
            return code_of(function.func)
        case MethodType():
            return function.__func__
    return function if isroutine(function) else type(function)


def code_hash(function: Callable[..., Any]) -> str:
    """A hash of the code of a function, its defaults, and the numbers and texts that it captures.

    Of a partial function also those that it binds; of another object, the methods of its class, and those that it keeps
    under the names of its constructor's arguments. What else an object holds may change while it scores.
    It does not depend on the function's place and comments. The code is the one that this version of Python compiles.
    """
    return hashlib.sha256(repr(_code(function)).encode()).hexdigest()


def _code(function: object) -> object:
    match function:
        case FunctionType():
            cells = [cell.cell_contents for cell in function.__closure__ or ()]
            return _described(function.__code__), function.__defaults__, function.__kwdefaults__, _plain(cells)
        case partial():
            bound = [function.args, *sorted(function.keywords.items())]
            return _code(function.func), [_plain(values) for values in bound]
        case type():
            return [_code(method) for method in vars(function).values() if isinstance(method, FunctionType)]
    code = code_of(function)
    if code is function:
        return repr(code)
    return _code(code), _settings(function.__self__ if isinstance(function, MethodType) else function)


def _settings(made: object) -> list[object]:
    try:
        kept, given = vars(made), [*signature(type(made)).parameters]
    except (TypeError, ValueError):  # it has slots, or is of C
        return []
    return [(name, _plain([kept[name]])) for name in given if name in kept]


def _plain(values: Iterable[object]) -> list[object]:
    return [value for value in values if isinstance(value, bool | int | float | str)]


def _described(constant: object) -> object:
    if isinstance(constant, CodeType):
        return constant.co_code, constant.co_names, [_described(inner) for inner in constant.co_consts]
    return sorted(map(repr, constant)) if isinstance(constant, frozenset) else constant
