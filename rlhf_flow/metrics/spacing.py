"""Evenly spaced items of a sequence."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypeVar

Item = TypeVar("Item")


def spread(items: Sequence[Item], wanted: int) -> list[Item]:
    """`wanted` of the items, evenly spaced, the first and the last among them."""
    if len(items) <= wanted:
        return list(items)
    return [items[at * (len(items) - 1) // max(wanted - 1, 1)] for at in range(wanted)]
