"""One-paragraph messages for mistakes in the arguments, including the errors of Hydra and OmegaConf."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator, Sequence
from dataclasses import fields
from difflib import get_close_matches
from itertools import pairwise

from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.errors import HydraException, MissingConfigException, OverrideParseException
from omegaconf import DictConfig
from omegaconf.errors import (
    ConfigAttributeError,
    ConfigKeyError,
    InterpolationResolutionError,
    MissingMandatoryValue,
    OmegaConfBaseException,
    ReadonlyConfigError,
    ValidationError,
)

from rlhf_flow.cli.help import found_files
from rlhf_flow.config.answers import Answers
from rlhf_flow.config.compose import CONFIGS, group_of, is_slot
from rlhf_flow.config.overrides import with_keys
from rlhf_flow.system.errors import ConfigError
from rlhf_flow.system.redact import redacted

Mistake = (ValueError, HydraException, OmegaConfBaseException)  # raised while a configuration is composed and checked
OPTIONS = (  # of Hydra, and of the commands that compose a configuration
    *("-h", "--help", "--hydra-help", "--version", "-c", "--cfg", "--resolve", "-p", "--package", "-r", "--run", "-m"),
    *("--multirun", "-sc", "--shell-completion", "-cp", "--config-path", "-cn", "--config-name", "-cd", "--config-dir"),
    *("--experimental-rerun", "-i", "--info", "--memory", "--gpus", "--like", "--json", "--load"),
)
GROUPS = ("algorithm", "experiment", "stack")  # chosen by name, without a key in the configuration
SELDOM = ("refresh.", "alarms.", "off_policy.", "resampling.", "evaluate.")  # suggested last
ANSWERS = tuple(field.name for field in fields(Answers))
MOST = 3  # suggested keys


def no_option(arguments: Sequence[str]) -> str | None:
    """A message for the first argument with dashes that is not an option; None if there is none."""
    for argument, following in pairwise([*arguments, ""]):
        name, equals, value = argument.partition("=")
        if not name.startswith("-") or any(option.startswith(name) for option in OPTIONS):
            continue
        if not equals and following and not following.startswith("-") and "=" not in following:
            value = following
        if not value:
            return f"{name} is not an option. Try --help."
        return f"{name} is not an option, and keys take no dashes. Fix: {name.lstrip('-').replace('-', '_')}={value}."
    return None


def mistake(error: BaseException) -> str:
    """A paragraph for a `Mistake`: the key, the problem and the fix."""
    if isinstance(error, OverrideParseException):
        return f"cannot read {error.override!r}: it must be key=value. {_in_quotes(str(error.override))}"
    if isinstance(error, MissingConfigException) and error.missing_cfg_file:
        return _no_such_choice(error.missing_cfg_file, list(error.options or []))
    composing = isinstance(error, HydraException | OmegaConfBaseException)
    for cause in _causes(error) if composing else ():
        if isinstance(cause, ConfigAttributeError | ConfigKeyError):
            return _no_such_key(cause)
        if isinstance(cause, ReadonlyConfigError):
            return _in_a_list(str(cause.full_key), str(error))
        if isinstance(cause, MissingMandatoryValue):
            return f"{cause.full_key} must be given. Fix: {cause.full_key}=..."
        if isinstance(cause, InterpolationResolutionError):
            return f"{cause.full_key}: {_after_wrapping(cause)}"
        if isinstance(cause, ValidationError):
            return f"{cause.full_key}: {_first_line(cause)}. Try --cfg job to see valid values."
    if ambiguous := re.match(r"Ambiguous value for argument '(.*)'\n", str(error)):
        return f"cannot read {ambiguous[1]!r}: its commas make a list of values. {_in_quotes(ambiguous[1])}"
    if (message := str(error)).startswith("Config group override must be"):  # Hydra does not name the group
        value = message.rpartition(" ")[2]
        return f"a part is chosen by its name, and {value} is not one. Fix: group=name, or ~group for no part."
    return _paragraph(message)


def retry(error: BaseException, command: str, given: Sequence[str]) -> str:
    """The line with the command that mends the mistake; empty if no keys alone mend it."""
    if not isinstance(error, ConfigError) or not error.keys:
        return ""
    return f"Try: {command} {redacted(shlex.join(with_keys(given, error.keys)))}"


def _in_quotes(override: str) -> str:
    """The override as a shell word whose value Hydra reads unchanged."""
    key, equals, value = override.partition("=")
    for mark in ("'", '"') if equals else ():
        escaped = re.sub(rf"(\\*)({mark})", r"\1\1\\\2", value)  # a backslash escapes only before a quotation mark
        quoted = f"{key}={mark}{escaped}{mark}"
        try:
            read = OverridesParser.create().parse_override(quoted).value()
        except HydraException:
            continue
        if read == value:
            return f"Fix: quote the value, and the argument for the shell: {shlex.quote(quoted)}"
    return "Try key=value."


def _no_such_choice(wanted: str, options: list[str]) -> str:
    group, _, name = wanted.partition("/")
    if not name:
        return f"there is no configuration {group!r}. Fix: --config-name with one of {', '.join(options) or 'yours'}."
    options = list(dict.fromkeys([*options, *found_files([CONFIGS], group)]))  # Hydra lists no folders
    near = get_close_matches(name, options, n=1, cutoff=0.5)
    try_this = f"Did you mean {group}={near[0]}? " if near else ""
    return f"{group}={name} is not a known {group}. {try_this}Try one of {', '.join(options)}."


def _no_such_key(error: OmegaConfBaseException) -> str:
    key = str(error.full_key or error.key)
    parent, _, name = key.rpartition(".")
    node = error.parent_node
    siblings = [str(sibling) for sibling in error.parent_node] if isinstance(node, DictConfig) else []
    where = f"{parent} has" if parent else "the configuration has"
    prefix = f"{parent}." if parent else ""
    others = f"Try one of {', '.join(siblings)}." if siblings else f"This {parent} has no keys; choose another."
    if is_slot(parent) and not siblings:  # no part is chosen yet
        others = f"Fix: {group_of(parent)}@{parent}=name first."
    meant = _meant(name, siblings if parent else [*siblings, *GROUPS], _keys_inside(node))
    try_this = f"Did you mean {' or '.join(f'{prefix}{near}' for near in meant)}?" if meant else others
    return f"there is no key {key!r}: {where} no {name!r}. {try_this}"


def _in_a_list(key: str, message: str) -> str:
    """For one item of a list that a file sets as a whole."""
    whole, _, name = re.sub(r"\[(\d+)\]", r".\1", key).rpartition(".")
    value = message.rpartition("=")[2].strip()
    fix = f"answers.{name}={value} for all draws" if name in ANSWERS else "give the whole list"
    return f"{whole}.{name}: an algorithm sets this list as a whole, so its items cannot be changed. Fix: {fix}."


def _meant(name: str, siblings: Sequence[str], inside: Sequence[str]) -> list[str]:
    """The keys that a wrong one may mean: a misspelt sibling, or a key of a section, less deep ones first."""
    if near := get_close_matches(name, siblings, n=1, cutoff=0.75):
        return near
    leaves = [key.rpartition(".")[2] for key in inside]
    if (leaf := get_close_matches(name, leaves, n=1, cutoff=1.0 if len(name) < 4 else 0.75)) != []:
        found = [key for key in inside if key.rpartition(".")[2] == leaf[0]]
        return [key for key in found if key.count(".") == found[0].count(".")][:MOST]
    return get_close_matches(name, siblings, n=1, cutoff=0.6)


def _keys_inside(node: object, prefix: str = "") -> list[str]:
    """All keys with values, without the items of lists; keys that training uses come first."""
    if not isinstance(node, DictConfig) or node._is_none() or node._is_missing():
        return []
    found: list[str] = []
    for name in map(str, node):
        child = node._get_node(name)
        inner = isinstance(child, DictConfig) and not child._is_none() and not child._is_missing()
        found += _keys_inside(child, f"{prefix}{name}.") if inner else [f"{prefix}{name}"]
    return sorted(found, key=lambda key: (key.startswith(SELDOM), key.count(".")))


def _causes(error: BaseException | None) -> Iterator[BaseException]:
    while error is not None:
        yield error
        error = error.__cause__ or (None if error.__suppress_context__ else error.__context__)


def _after_wrapping(error: InterpolationResolutionError) -> str:
    """The message of the resolver itself, which OmegaConf wraps."""
    return re.sub(r"^\w+ raised while resolving interpolation: ", "", _first_line(error))


def _first_line(error: BaseException) -> str:
    return str(error).split("\n", 1)[0].strip()


def _paragraph(text: str) -> str:
    """The text on one line; if it has a list (`- ...`), its lines stay."""
    if "\n- " in text:
        return "\n".join(" ".join(line.split()) for line in text.splitlines())
    return " ".join(text.split())
