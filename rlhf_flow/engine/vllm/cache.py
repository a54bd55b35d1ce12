"""How much memory vLLM's KV cache takes on a CPU."""

from __future__ import annotations

import os
from collections.abc import Iterator

BLOCK = 32  # tokens of a block
LEAST = 64 << 20  # bytes
SIDE_BY_SIDE = 16  # longest sequences that it has room for, unless that is more than an eighth of the host
SLACK = 1.25  # layers with windows share blocks with the others, which leaves some of them empty
SEQUENCE = 2048  # tokens of a sequence of a model that does not say how long one is, as vLLM has it


def cache_bytes(asked_mib: int | None, *, token: int, longest: int) -> int:
    """Bytes of the cache, of which a token takes `token`; `longest`: tokens of the longest sequence."""
    if asked_mib is not None:
        return asked_mib << 20
    one = round(token * (longest + 4 * BLOCK) * SLACK)
    host = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    return max(LEAST, one, min(SIDE_BY_SIDE * one, host // 8))


def too_small(asked_mib: int | None, *, token: int, longest: int) -> Iterator[str]:
    """What is wrong with a cache that was asked for: vLLM does not open without room for one sequence."""
    if asked_mib is not None and longest * token > asked_mib << 20:
        holds, wants = (asked_mib << 20) // token, (longest * token >> 20) + 1
        yield (
            f"engine.kv_cache_mib={asked_mib} holds {holds} tokens, and vLLM wants room for one sequence of {longest}. "
            f"Try engine.kv_cache_mib={wants}, or leave it out."
        )
