"""Keys and values of a YAML file or a mapping, as overrides of the command line."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator, Mapping, Sequence
from datetime import date
from numbers import Integral, Real
from pathlib import Path

import yaml
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Quote, QuotedString

from rlhf_flow.config import renamed
from rlhf_flow.config.schema import GROUPS
from rlhf_flow.system.errors import ConfigError, brief

PLAIN = re.compile(r"[A-Za-z_/][\w/.-]*", re.ASCII)  # a text that Hydra reads as itself
WORDS = ("null", "true", "false", "inf", "nan")  # but not one of these
CHOSEN = (*GROUPS, "algorithm", "experiment", "stack", "reward")  # keys that choose a part or a file by name


def expanded(arguments: Sequence[str]) -> list[str]:
    """The arguments, with each YAML file replaced by its keys. Typed keys come last, so that they take precedence.

    Raises ValueError for a file that is missing or holds no keys, and for a key that was renamed.
    """
    files = [argument for argument in arguments if _is_file(argument)]
    typed = [argument for argument in arguments if not _is_file(argument)]
    overrides = [override for file in files for override in from_file(Path(file))] + typed
    for override in overrides:
        renamed.refuse(override)
    return [_observed(override) for override in overrides]


def _observed(override: str) -> str:
    """`observe=my_lab.Mine` adds an observer; `observe` has no group of files that the name could choose from."""
    key, _, value = override.partition("=")
    if key != "observe" or value.startswith("{"):
        return override
    return f"observe.classes={value if value.startswith('[') else f'[{value}]'}"


def from_file(path: Path) -> list[str]:
    try:
        read = yaml.safe_load(path.read_text())
    except (OSError, UnicodeDecodeError) as error:
        raise ValueError(
            f"{path} cannot be read: {error}. Fix: rlhf-flow init {shlex.quote(str(path))} writes one."
        ) from error
    except yaml.YAMLError as error:
        raise ValueError(
            f"{path} is not valid YAML: {' '.join(str(error).split())}. Fix: one `key: value` a line."
        ) from error
    if not isinstance(read, dict):
        raise ValueError(f"{path} holds no keys. Fix: one `key: value` a line, as rlhf-flow init writes it.")
    return from_mapping(read)


def from_mapping(keys: Mapping[str, object]) -> list[str]:
    """`{"model.path": "x", "learner": "torch"}` as overrides, or with mappings inside. A null part is left out.

    Raises ConfigError if a value has no form on the command line.
    """
    return [
        _override(key, value)
        for key, value in _flat("", keys)
        if not (value is None and key.partition("@")[0] in CHOSEN)
    ]


def _override(key: str, value: object) -> str:
    try:
        return f"{key}={literal(value)}"
    except TypeError as error:
        raise ConfigError(
            f"{key}: {error} cannot be the value of a key", "a text, a number, true or false, a list or a mapping"
        ) from error


def with_keys(arguments: Sequence[str], keys: Sequence[str]) -> list[str]:
    """The arguments with these overrides, in place of those that set the same keys."""
    names = {key.partition("=")[0] for key in keys}
    return [*(one for one in arguments if one.partition("=")[0] not in names), *keys]


def given_keys(overrides: Sequence[str]) -> Iterator[str]:
    """The keys that overrides set, including those inside of a list or a mapping."""
    for override in OverridesParser.create().parse_overrides(list(overrides)):
        yield from _keys_of(override.key_or_group, override.value())


def _keys_of(key: str, value: object) -> Iterator[str]:
    if not isinstance(value, dict | list):
        yield key
        return
    for name, one in value.items() if isinstance(value, dict) else enumerate(value):
        yield from _keys_of(f"{key}.{name}", one)


def _is_file(argument: str) -> bool:
    return argument.endswith((".yaml", ".yml")) and "=" not in argument and not argument.startswith(("-", "~", "+"))


def _flat(prefix: str, keys: Mapping[str, object]) -> Iterator[tuple[str, object]]:
    for name, value in keys.items():
        if isinstance(value, Mapping) and value:
            yield from _flat(f"{prefix}{name}.", value)
        else:
            yield f"{prefix}{name}", value


def literal(value: object) -> str:
    """In Hydra's grammar. Texts that it could read as something else are quoted.

    Raises TypeError, with the value, if it is no text, path, date, number, list or mapping.
    """
    if isinstance(value, Mapping):
        return "{" + ",".join(f"{literal(key)}:{literal(one)}" for key, one in value.items()) + "}"
    if isinstance(value, Sequence) and not isinstance(value, str | bytes):
        return "[" + ",".join(map(literal, value)) + "]"
    if value is None or isinstance(value, bool):
        return {None: "null", True: "true", False: "false"}[value]
    if isinstance(value, Real):  # of numpy, too
        return repr(int(value) if isinstance(value, Integral) else float(value))
    if not isinstance(value, str | Path | date):
        raise TypeError(brief(value))
    text = str(value)
    if PLAIN.fullmatch(text) and text.lower() not in WORDS:
        return text
    return str(QuotedString(text, Quote.single).with_quotes())
