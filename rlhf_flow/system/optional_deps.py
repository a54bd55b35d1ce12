"""Packages that are optional: what needs them, how to install them, and what to use instead."""

from __future__ import annotations

from collections.abc import Callable
from importlib.util import find_spec


class MissingError(ValueError):
    """A package is not installed. `part` needs it."""

    def __init__(self, message: str, *, package: str, part: str) -> None:
        super().__init__(message)
        self.package, self.part = package, part


def check_all(*checks: Callable[[], None]) -> None:
    """Run every check; raise one MissingError for all packages that they miss. Another error is raised as it comes."""
    missing = []
    for check in checks:
        try:
            check()
        except MissingError as error:
            missing.append(error)
    if len(missing) == 1:
        raise missing[0]
    if missing:
        packages = ", ".join(f"{one.package} ({one.part})" for one in missing)
        raise MissingError(
            f"this run needs packages that are not installed: {packages}. Fix: stack=local, which runs in one process "
            "without Ray, vLLM and DeepSpeed; or install them (pip install 'rlhf-flow[cpu]' or 'rlhf-flow[cuda]').",
            package=missing[0].package,
            part=missing[0].part,
        )


def require(package: str, *, part: str, instead: str, extras: tuple[str, ...] = ()) -> None:
    """Raise ValueError where the package that a part needs is not installed. Imports nothing.

    `extras`: those of this distribution that bring the package, where they are not named like it.
    """
    if find_spec(package) is None:
        ways = " or ".join(f"pip install 'rlhf-flow[{extra}]'" for extra in extras or (package,))
        raise MissingError(
            f"{part} needs the package {package}, which is not installed. Install it ({ways}), or use {instead}.",
            package=package,
            part=part,
        )
