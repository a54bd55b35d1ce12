"""Every random number of a run comes from what it is for, never from who asked first."""

from __future__ import annotations

import hashlib


def derive(*parts: int | str) -> int:
    """A 62-bit seed from its parts. Children `seed + k` of one draw do not collide with another draw's in practice."""
    text = "\x1f".join(f"{type(part).__name__}:{part}" for part in parts)
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big") >> 2
