"""Mistakes in the arguments of a command: `mistake` has the paragraph, `retry` the command that mends it."""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from itertools import pairwise

from rlhf_flow.config.mistakes import Mistake as Mistake
from rlhf_flow.config.mistakes import mistake as mistake
from rlhf_flow.config.overrides import with_keys
from rlhf_flow.system.errors import ConfigError
from rlhf_flow.system.redact import redacted

OPTIONS = (  # of Hydra, and of the commands that compose a configuration
    *("-h", "--help", "--hydra-help", "--version", "-c", "--cfg", "--resolve", "-p", "--package", "-r", "--run", "-m"),
    *("--multirun", "-sc", "--shell-completion", "-cp", "--config-path", "-cn", "--config-name", "-cd", "--config-dir"),
    *("--experimental-rerun", "-i", "--info", "--memory", "--gpus", "--like", "--json", "--load"),
)


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


def retry(error: BaseException, command: str, given: Sequence[str]) -> str:
    """The line with the command that mends the mistake; empty if no keys alone mend it."""
    if not isinstance(error, ConfigError) or not error.keys:
        return ""
    return f"Try: {command} {redacted(shlex.join(with_keys(given, error.keys)))}"
