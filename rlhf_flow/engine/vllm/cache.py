"""The size of vLLM's KV cache on a CPU."""

from __future__ import annotations

import os
from collections.abc import Iterator

from rlhf_flow.system.errors import ConfigError

BLOCK = 32  # tokens
LEAST = 64 << 20  # bytes
SEQUENCES = 16  # of maximum length that fit, unless they take more than an eighth of the host
SLACK = 1.25  # sliding-window layers share blocks with the others and leave some of them empty
SEQUENCE = 2048  # tokens, vLLM's maximum length for a model whose config has none


def cache_bytes(asked_mib: int | None, *, token: int, longest: int) -> int:
    """Bytes of the cache. `token`: bytes per token; `longest`: tokens of the longest sequence."""
    if asked_mib is not None:
        return asked_mib << 20
    one = round(token * (longest + 4 * BLOCK) * SLACK)
    host = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    return max(LEAST, one, min(SEQUENCES * one, host // 8))


def too_small(asked_mib: int | None, *, token: int, longest: int) -> Iterator[ConfigError]:
    """The problem with engine.kv_cache_mib, if any: vLLM does not open without room for one sequence."""
    if asked_mib is not None and longest * token > asked_mib << 20:
        holds, wants = (asked_mib << 20) // token, (longest * token >> 20) + 1
        yield ConfigError(
            f"engine.kv_cache_mib={asked_mib}: holds {holds} tokens, and vLLM needs room for one sequence of {longest}",
            f"engine.kv_cache_mib={wants}, or leave it out",
            (f"engine.kv_cache_mib={wants}",),
        )
