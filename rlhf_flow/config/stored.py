"""Configurations in files that `compose.as_yaml` wrote, with the secrets that environment variables hold."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from pathlib import Path

import yaml

from rlhf_flow.config import renamed
from rlhf_flow.config.compose import from_plain
from rlhf_flow.config.schema import RunConfig
from rlhf_flow.storage.run_policies import fix_of
from rlhf_flow.system.redact import MARK

WRITTEN = re.compile(r"\[secret:(\w+)\]")  # in place of the value of an environment variable


def stored(folder: Path) -> RunConfig:
    """The configuration of the run in `folder`. Secrets whose variable is not set stay `[secret:NAME]`.

    Raises ValueError if the folder holds no run.
    """
    return from_plain(plain_of_run(folder))


def plain_of_run(folder: Path) -> dict[str, object]:
    """As `stored`, as dicts, lists and scalars. A secret is a reference to its variable, `${oc.env:NAME}`."""
    path = folder / "config.yaml"
    if not path.is_file():
        raise ValueError(f"{folder} holds no run: it has no config.yaml. Fix: {fix_of(folder)}.")
    return plain_of_file(path)


def plain_of_file(path: Path) -> dict[str, object]:
    """As `plain_of_run`, of any file that `as_yaml` wrote."""
    found = _with_references(renamed.configuration(yaml.safe_load(path.read_text(encoding="utf-8"))))
    assert isinstance(found, dict)
    return found


def check_secrets(keys: Mapping[str, object]) -> None:
    """Raise ValueError if a value is a secret that the file does not hold. `keys`: full keys and their values."""
    for key, value in keys.items():
        if missing := WRITTEN.search(str(value)):
            raise ValueError(
                f"{key}: its secret was in the environment variable {missing[1]}, which is not set. "
                f"Fix: export {missing[1]}=..."
            )
        if value == MARK:
            raise ValueError(f"{key}: the run's folder holds no secrets. Fix: '{key}=${{oc.env:JUDGE_KEY}}'.")


def _with_references(written: object) -> object:
    if isinstance(written, dict):
        return {key: _with_references(value) for key, value in written.items()}
    if isinstance(written, list):
        return [_with_references(value) for value in written]
    return WRITTEN.sub(_reference, written) if isinstance(written, str) else written


def _reference(found: re.Match[str]) -> str:
    return f"${{oc.env:{found[1]}}}" if found[1] in os.environ else found[0]
