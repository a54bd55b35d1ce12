"""Validation of a scorer's fields."""

from __future__ import annotations


def check_fields(spec: object, *rules: tuple[str, str, bool], slot: str = "scorer") -> None:
    """Raise ValueError for the first rule (field, what the field must be, whether it is) that is broken."""
    for key, rule, holds in rules:
        if not holds:
            raise ValueError(f"{slot}.{key} must be {rule}, got {vars(spec)[key]!r}")
