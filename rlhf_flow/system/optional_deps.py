"""Optional packages: errors that say which part needs one, how to install it, and what to use instead."""

from __future__ import annotations

from collections.abc import Callable
from importlib.util import find_spec


class MissingError(ValueError):
    """`part` needs a package that is not installed."""

    def __init__(self, message: str, *, package: str, part: str) -> None:
        super().__init__(message)
        self.package, self.part = package, part


def check_all(*checks: Callable[[], None]) -> None:
    """Run every check; raise one MissingError for all missing packages. Other errors are raised at once."""
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
    """Raise MissingError if a package that a part needs is not installed. Imports nothing.

    `extras`: the extras of this distribution that install it; by default the one with the package's name.
    """
    if find_spec(package) is None:
        ways = " or ".join(f"pip install 'rlhf-flow[{extra}]'" for extra in extras or (package,))
        raise MissingError(
            f"{part} needs the package {package}, which is not installed. Fix: {ways}; or use {instead}.",
            package=package,
            part=part,
        )
