"""A function that the user names, `module.function`: imported, and identified by the hash of its source file."""

from __future__ import annotations

import hashlib
import importlib
import inspect
import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from rlhf_flow.scorer.functions.defined import code_hash, code_of, defined, is_defined
from rlhf_flow.system.errors import reason
from rlhf_flow.types import Prompt

LARGEST = float(np.finfo(np.float32).max)


def check_name(key: str, name: str) -> None:
    """Raise ValueError if `name` is not of the form module.function; `key` is the configuration key that holds it."""
    if not is_name(name):
        dotted = ".".join(re.findall(r"\w+", name.replace(".py:", ".")))  # my_lab/rewards.py:polite
        fix = f"{key}={dotted}" if is_name(dotted) else f"{key}=module.{dotted or 'function'}, with its module"
        raise ValueError(f"{key} must be written module.function, got {name!r}. Fix: {fix}.")


def is_name(name: str) -> bool:
    """Whether a text is of the form module.function."""
    return "." in name and all(part.isidentifier() for part in name.split("."))


def imported(key: str, name: str) -> Callable[..., Any]:
    """Raises ValueError if the module cannot be imported, or has no such function."""
    if (function := defined(name)) is not None:
        return function
    module_name, _, function_name = name.rpartition(".")
    try:
        module = importlib.import_module(module_name)
    except Exception as error:  # a user's module may raise anything while it is imported
        raise ValueError(
            f"{key}={name}: importing {module_name!r} failed with {type(error).__name__}: {reason(error)}. "
            "Fix: put its folder on PYTHONPATH, or correct the name."
        ) from error
    functions = {key: value for key, value in vars(module).items() if callable(value) and not inspect.isclass(value)}
    if function_name not in functions:
        found = "is no function" if function_name in vars(module) else "is not there"
        own = [key for key, value in functions.items() if inspect.isfunction(value) and value.__module__ == module_name]
        names = ", ".join(sorted(key for key in own if not key.startswith("_"))) or "none"
        raise ValueError(
            f"{key}={name}: {function_name!r} {found}. Fix: one of the functions of {module_name!r}: {names}."
        )
    return functions[function_name]


def check_takes(
    key: str,
    name: str,
    function: Callable[..., Any],
    taken: Sequence[str],
    arguments: Mapping[str, object] | None = None,
) -> None:
    """Raise ValueError if a function does not take `taken` by position and `arguments` by name.

    `key`: the configuration key that names it. `arguments`: None if it has no key for them.
    """
    try:
        signature = inspect.signature(function)
    except ValueError:  # some functions of C have none
        return
    try:
        signature.bind(*taken) if arguments is None else signature.bind_partial(*taken)
    except TypeError as error:
        wanted = ", ".join(taken)
        raise ValueError(
            f"{key}={name}: it must take ({wanted}), and its parameters are {signature}: {reason(error)}. "
            f"Fix: def {name.rpartition('.')[2]}({wanted})."
        ) from error
    try:
        signature.bind(*taken, **(arguments or {}))
    except TypeError as error:
        key = key.replace("function", "arguments")
        others = ", ".join([*signature.parameters][len(taken) :])
        raise ValueError(
            f"{key} must be those of {name}{signature} besides {', '.join(taken)}, "
            f"got {dict(arguments or {})}: {reason(error)}. Fix: {f'give {others}' if others else f'leave {key} out'}."
        ) from error


def source_hash(functions: Mapping[str, Callable[..., Any]]) -> str:
    """Hash of the source files of the functions, each file once, and of the code of functions of a notebook.

    `functions`: by the names that `imported` found them by. Empty if there are none.
    """
    homes = {home: function for name, function in reversed([*functions.items()]) for home in _homes(name, function)}
    sources = [
        Path(home).read_bytes() if isinstance(home, str) else code_hash(function).encode()
        for home, function in reversed(homes.items())
        if home is not None
    ]
    return hashlib.sha256(b"".join(sources)).hexdigest() if sources else ""


def _homes(name: str, function: Callable[..., Any]) -> list[object]:
    """The source file of a function; the function itself if it is one of a notebook.

    For another object that can be called, the file that makes it, and the file of its code.
    """
    if is_defined(function):
        return [function]
    if inspect.isroutine(function):
        return [_source(function)]
    return [_source(code_of(function)), _source(importlib.import_module(name.rpartition(".")[0]))]


def _source(code: Any) -> str | None:  # noqa: ANN401  # a module, class or function
    try:
        return inspect.getsourcefile(code)
    except TypeError:  # of C
        return None


def meta_of(prompt: Prompt) -> Mapping[str, object]:
    """What a function gets as `meta`: the prompt's other columns, and the gold answer under "answer" if there is one.

    Raises ValueError if there is a gold answer and also a column "answer".
    """
    if prompt.answer is None:
        return prompt.meta
    if "answer" in prompt.meta:
        raise ValueError(
            f"prompt {prompt.id!r} has a gold answer and another column called 'answer'; a rule can be given "
            "only one of them. Fix: rename the column, or set prompts.columns.answer=answer."
        )
    return {**prompt.meta, "answer": prompt.answer}


def is_number(value: object) -> bool:
    """Whether a value is a number that is finite in float32."""
    return isinstance(value, int | float | np.integer | np.floating) and bool(np.abs(value) <= LARGEST)
