"""One-paragraph messages for mistakes in keys and values, in place of the errors of Hydra and OmegaConf."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import fields
from difflib import get_close_matches

from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.errors import HydraException, MissingConfigException, OverrideParseException
from omegaconf import DictConfig
from omegaconf.errors import (
    ConfigAttributeError,
    ConfigKeyError,
    ConfigTypeError,
    InterpolationKeyError,
    InterpolationResolutionError,
    MissingMandatoryValue,
    OmegaConfBaseException,
    ReadonlyConfigError,
    ValidationError,
)

from rlhf_flow.config.answers import Answers
from rlhf_flow.config.choice_mistakes import nearest, no_such_choice, not_chosen
from rlhf_flow.config.compose import group_of, is_slot
from rlhf_flow.config.wrong_values import wrong_value
from rlhf_flow.system.redact import redacted

Mistake = (ValueError, HydraException, OmegaConfBaseException)  # raised while a configuration is composed and checked
GROUPS = ("algorithm", "experiment", "stack")  # chosen by name, without a key in the configuration
SELDOM = ("refresh.", "alarms.", "off_policy.", "resampling.", "evaluate.")  # suggested last
ANSWERS = tuple(field.name for field in fields(Answers))
FROM_PYTHON = {"model.path": "model", "prompts.path": "prompts", "scorer.path": "reward"}  # arguments of rlhf_flow.run
MOST = 3  # suggested keys


@contextmanager
def as_value_errors() -> Iterator[None]:
    """Raise errors of Hydra and OmegaConf as a ValueError with the paragraph of `mistake`."""
    try:
        yield
    except (HydraException, OmegaConfBaseException) as error:
        raise ValueError(redacted(mistake(error))) from None
    except ValueError as error:
        if told := not_chosen(str(error)):  # Hydra raises one ValueError, too
            raise ValueError(redacted(told)) from None
        raise


def mistake(error: BaseException) -> str:
    """A paragraph for a `Mistake`: the key, the problem and the fix."""
    if isinstance(error, OverrideParseException):
        return f"cannot read {error.override!r}: it must be key=value. {_in_quotes(str(error.override))}"
    if isinstance(error, MissingConfigException) and error.missing_cfg_file:
        return no_such_choice(error.missing_cfg_file, list(error.options or []))
    composing = isinstance(error, HydraException | OmegaConfBaseException)
    merged = re.match(r"Error merging override (.*)", str(error))
    for cause in _causes(error) if composing else ():
        if told := _of_omegaconf(cause, str(error), merged[1] if merged else ""):
            return told
    if ambiguous := re.match(r"Ambiguous value for argument '(.*)'\n", str(error)):
        return f"cannot read {ambiguous[1]!r}: its commas make a list of values. {_in_quotes(ambiguous[1])}"
    return not_chosen(str(error)) or _paragraph(str(error))


def _of_omegaconf(cause: BaseException, message: str, override: str) -> str:
    """The paragraph of an error of OmegaConf; empty for another one. `message`: of the error that it caused."""
    match cause:
        case ConfigAttributeError() | ConfigKeyError():
            return _no_such_key(cause)
        case ReadonlyConfigError():
            return _in_a_list(str(cause.full_key), message)
        case MissingMandatoryValue():
            return _must_be_given(str(cause.full_key))
        case InterpolationKeyError() if cause.full_key != "_dummy_":  # that of Hydra's list of defaults
            name = re.sub(r"Interpolation key (.*) not found", r"\1", _first_line(cause))
            return f"{cause.full_key}: there is no key {name} to read. Fix: ${{KEY}} with a key of the configuration."
        case InterpolationResolutionError() if cause.full_key != "_dummy_":
            return f"{cause.full_key}: {_after_wrapping(cause)}"
        case ValidationError() | ConfigTypeError():
            return wrong_value(cause, override)
    return ""


def _must_be_given(key: str) -> str:
    argument = f", or {FROM_PYTHON[key]}=... of rlhf_flow.run" if key in FROM_PYTHON else ""
    return f"{key} must be given. Fix: {key}=...{argument}."


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


def _no_such_key(error: OmegaConfBaseException) -> str:
    key = str(error.full_key or error.key)
    parent, _, name = key.rpartition(".")
    node = error.parent_node
    siblings = [str(key) for key in node if key != "hydra"] if isinstance(node, DictConfig) else []
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
    return nearest(name, siblings, cutoff=0.6)


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
