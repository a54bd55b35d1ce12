"""A class of the user's, `module.Class`, imported and checked before any worker starts."""

from __future__ import annotations

from collections.abc import Callable
from importlib import import_module
from inspect import getmembers, isclass, signature
from typing import cast

from rlhf_flow.observe.settings import ObservedRun, Observer
from rlhf_flow.system.errors import ConfigError

METHODS = ("stage", "round", "close")


def imported(name: str) -> Callable[[ObservedRun], Observer]:
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
    _takes(key, found, "run")
    held = dict(getmembers(found))
    for method in METHODS if isclass(found) else ():  # a function may return any object
        if method not in held:
            raise ConfigError(f"{key}: it has no method {method}.", "derive it from rlhf_flow.observe.Observer")
        _takes(f"{key}: its method {method}", held[method], *signature(getattr(Observer, method)).parameters)
    return cast("Callable[[ObservedRun], Observer]", found)


def _takes(subject: str, called: Callable[..., object], *arguments: str) -> None:
    """Raise ConfigError if `called` does not take these arguments by position."""
    try:
        expected = signature(called)
    except ValueError:  # some classes of C have none
        return
    try:
        expected.bind(*arguments)
    except TypeError as error:
        raise ConfigError(
            f"{subject} has the parameters {expected}: {error}.", f"take ({', '.join(arguments)})"
        ) from error
