"""A function that the user names: `module.function`, imported where it works, and identified by its source."""

from __future__ import annotations

import hashlib
import importlib
import inspect
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from rlhf_flow.types import Prompt

LARGEST = float(np.finfo(np.float32).max)


def check_name(key: str, name: str) -> None:
    """Raise ValueError where `name` is not written as the name of a function; `key` is where it was given."""
    if not all(part.isidentifier() for part in name.split(".")) or "." not in name:
        raise ValueError(f"{key} must be written module.function, got {name!r}")


def imported(key: str, name: str) -> Callable[..., Any]:
    """Raises ValueError where there is no such function, or its module cannot be imported."""
    module_name, _, function_name = name.rpartition(".")
    try:
        module = importlib.import_module(module_name)
    except Exception as error:  # a user's module may raise anything while it is imported
        raise ValueError(
            f"{key}={name}: importing {module_name!r} failed with {type(error).__name__}: {error}. "
            "Put the folder that holds it on PYTHONPATH, or correct it."
        ) from error
    functions = {key: value for key, value in vars(module).items() if callable(value)}
    if function_name not in functions:
        found = "is not callable" if function_name in vars(module) else "is not there"
        own = [key for key, value in functions.items() if inspect.isfunction(value) and value.__module__ == module_name]
        there = ", ".join(sorted(key for key in own if not key.startswith("_"))) or "none"
        raise ValueError(f"{key}={name}: {function_name!r} {found}; the functions of {module_name!r} are: {there}.")
    return functions[function_name]


def source_hash(*functions: Callable[..., Any]) -> str:
    """Hash of the source files that the functions are in, each once; empty where there are none."""
    files = {inspect.getsourcefile(function): function for function in reversed(functions)}
    sources = [_source(file, function) for file, function in reversed(files.items()) if file is not None]
    return hashlib.sha256(b"".join(sources)).hexdigest() if sources else ""


def _source(file: str, function: Callable[..., Any]) -> bytes:
    """The file; of a cell of a notebook, which is in none, the function alone."""
    path = Path(file)
    return path.read_bytes() if path.is_file() else inspect.getsource(function).encode()


def told(prompt: Prompt) -> Mapping[str, object]:
    """What a function learns of a prompt: its other columns, and under "answer" the gold answer where there is one.

    Raises ValueError where there is a gold answer and a column of that name too.
    """
    if prompt.answer is None:
        return prompt.meta
    if "answer" in prompt.meta:
        raise ValueError(
            f"prompt {prompt.id!r} has a gold answer and another column called 'answer'; a rule can be given "
            "only one of them. Rename the column, or set prompts.columns.answer=answer."
        )
    return {**prompt.meta, "answer": prompt.answer}


def is_number(value: object) -> bool:
    """Whether a function may answer it: a number that is finite in float32."""
    return isinstance(value, int | float | np.integer | np.floating) and bool(np.abs(value) <= LARGEST)
