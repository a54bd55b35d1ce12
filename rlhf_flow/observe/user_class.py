"""An observer of the user's, by the name of its class or from Python, checked before any worker starts."""

from __future__ import annotations

from collections.abc import Callable
from importlib import import_module
from inspect import getmembers, isclass, signature
from types import FunctionType
from typing import TypeAlias, cast

from rlhf_flow.observe.settings import ObservedRun, Observer
from rlhf_flow.system.errors import ConfigError, brief

Opener: TypeAlias = Callable[[ObservedRun], Observer]
METHODS = ("stage", "round", "close")


def imported(name: str) -> Opener:
    """Raises ConfigError if it cannot be imported, called with a run, or called with what a run reports.

    It is not called here: an observer may open files or connections.
    """
    key = f"observe.classes={name}"
    module, _, wanted = name.rpartition(".")
    try:
        found = getattr(import_module(module), wanted)
    except Exception as error:  # a user's module may raise anything while it is imported
        raise ConfigError(
            f"{key}: importing it failed with {type(error).__name__}: {error}.",
            "put its folder on PYTHONPATH, or correct the name",
        ) from error
    if not callable(found):
        raise ConfigError(f"{key}: it is not callable.", "name a class")
    return _checked(key, found)


def opener(observer: object) -> Opener:
    """Opens an observer that is given from Python: a class, or a function, as `imported` does; an instance as it is.

    Raises ConfigError if it is no observer, or called with what a run reports.
    """
    if isinstance(observer, type | FunctionType):
        return _checked(f"observe={observer.__name__}", observer)
    if isinstance(observer, str):
        raise ConfigError(
            f"observe={observer!r}: expected a class or an instance, not its name",
            f"keys={{'observe': {observer!r}}} if it is module.Class, or keys={{'observe.tensorboard': True}}",
        )
    _check_methods(f"observe={brief(observer)}", observer, bound=True)
    return lambda run: cast("Observer", observer)


def _checked(key: str, found: Callable[..., object]) -> Opener:
    _takes(key, found, "run", instead=", or give an instance" if isclass(found) and "classes" not in key else "")
    if isclass(found):  # a function may return any object
        _check_methods(key, found, bound=False)
    return cast("Opener", found)


def _check_methods(key: str, found: object, *, bound: bool) -> None:
    held = dict(getmembers(found))
    for method in METHODS:
        if method not in held:
            raise ConfigError(f"{key}: it has no method {method}.", "derive it from rlhf_flow.observe.Observer")
        arguments = [*signature(getattr(Observer, method)).parameters]
        _takes(f"{key}: its method {method}", held[method], *(arguments[1:] if bound else arguments))


def _takes(subject: str, called: Callable[..., object], *arguments: str, instead: str = "") -> None:
    """Raise ConfigError if `called` does not take these arguments by position."""
    try:
        expected = signature(called)
    except ValueError:  # some classes of C have none
        return
    try:
        expected.bind(*arguments)
    except TypeError as error:
        raise ConfigError(
            f"{subject} has the parameters {expected}: {error}.", f"take ({', '.join(arguments)}){instead}"
        ) from error
