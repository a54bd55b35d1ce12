"""Packages that are optional: what needs them, how to install them, and what to use instead."""

from __future__ import annotations

from importlib.util import find_spec


def require(package: str, *, part: str, instead: str, extras: tuple[str, ...] = ()) -> None:
    """Raise ValueError where the package that a part needs is not installed. Imports nothing.

    `extras`: those of this distribution that bring the package, where they are not named like it.
    """
    if find_spec(package) is None:
        ways = " or ".join(f"pip install 'rlhf-flow[{extra}]'" for extra in extras or (package,))
        raise ValueError(
            f"{part} needs the package {package}, which is not installed. Install it ({ways}), or use {instead}."
        )
