"""Attention over a line of groups without padding: torch's kernel for sequences of different lengths, on GPUs."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property, lru_cache
from itertools import pairwise

import numpy as np
import torch
from torch import Tensor

from rlhf_flow.learner.batching import Group
from rlhf_flow.learner.spans import Span, place

DTYPES = (torch.float16, torch.bfloat16)  # of the kernel
TOLERANCE = 0.05  # between two kernels in bfloat16, of outputs whose standard deviation is about 1


@dataclass(frozen=True)
class Sequences:
    """The prompts and answers of a line, each a sequence of queries. The keys of an answer begin with its prompt's.

    The queries are the last ones of their keys, to which the kernel's causal mask aligns them.
    """

    spans: Sequence[Span]
    device: torch.device

    @cached_property
    def _lengths(self) -> np.ndarray:
        """[S, 2]: queries and keys of each sequence that has a query."""
        found = [
            (len(queries), len(queries) + before)
            for span in self.spans
            for queries, before in ((span.prompt, 0), *((answer, len(span.prompt)) for answer in span.answers))
        ]
        return np.array([one for one in found if one[0]])

    @cached_property
    def keys(self) -> Tensor:
        """The places of all keys in the line, sequence by sequence."""
        places = []
        for span in self.spans:
            places.append(span.prompt)
            for answer in span.answers:
                places += [span.prompt, answer] if len(answer) else []
        return torch.from_numpy(np.concatenate(places)).to(self.device)

    @cached_property
    def ends(self) -> tuple[Tensor, Tensor]:
        """int32 [S + 1] each: where the queries and the keys of each sequence begin and end."""
        sums = np.concatenate([np.zeros((1, 2), np.int64), self._lengths.cumsum(0)]).astype(np.int32)
        queries, keys = (torch.from_numpy(np.ascontiguousarray(sums[:, column])).to(self.device) for column in (0, 1))
        return queries, keys

    @cached_property
    def longest(self) -> tuple[int, int]:
        queries, keys = self._lengths.max(0).tolist()
        return queries, keys

    def attend(self, query: Tensor, key: Tensor, value: Tensor, *, scaling: float | None, window: int | None) -> Tensor:
        """Query [1, heads, M, D], key and value [1, fewer heads, M, D] -> [1, M, heads, D]."""
        from torch.nn.attention.varlen import varlen_attn

        queries, keys, values = (tensor[0].transpose(0, 1) for tensor in (query, key, value))  # [M, heads, D] each
        (query_ends, key_ends), (most_queries, most_keys) = self.ends, self.longest
        found: Tensor = varlen_attn(  # type: ignore[assignment]  # without `return_aux` it returns a tensor
            queries.contiguous(),
            keys.index_select(0, self.keys),
            values.index_select(0, self.keys),
            query_ends,
            key_ends,
            most_queries,
            most_keys,
            scale=scaling,
            window_size=(-1 if window is None else window - 1, 0),
            enable_gqa=queries.shape[1] != keys.shape[1],
        )
        return found[None]


@lru_cache
def supported(device: torch.device, dtype: torch.dtype, dimension: int) -> bool:
    """Whether the kernel runs, and attends to the keys that it should, on this device."""
    if device.type != "cuda" or dtype not in DTYPES:
        return False
    spans, _ = place((Group(5, (4, 7)), Group(3, (1,))))
    sequences = Sequences(spans, device)
    generator = torch.Generator(device).manual_seed(0)
    query, key, value = (
        torch.randn(1, heads, 20, dimension, device=device, dtype=dtype, generator=generator) for heads in (2, 1, 1)
    )
    try:
        found = sequences.attend(query, key, value, scaling=None, window=None)[0]
    except (ImportError, RuntimeError):  # an older GPU, or a build without the kernel
        return False
    expected = reference(sequences, query.float(), key.float(), value.float())
    return bool((found.float() - expected).abs().max() < TOLERANCE)


def reference(sequences: Sequences, query: Tensor, key: Tensor, value: Tensor, window: int | None = None) -> Tensor:
    """What `Sequences.attend` should return, [M, heads, D], sequence by sequence."""
    lines = [tensor[0].transpose(0, 1) for tensor in (query, key, value)]
    keys, values = (line[sequences.keys].repeat_interleave(query.shape[1] // key.shape[1], 1) for line in lines[1:])
    found = []
    bounds = [each.tolist() for each in sequences.ends]
    for (q, q_end), (k, k_end) in zip(*map(pairwise, bounds), strict=True):
        behind = torch.arange(k_end - k - (q_end - q), k_end - k, device=query.device)[:, None]
        distance = behind - torch.arange(k_end - k, device=query.device)
        seen = (distance >= 0) & (distance < (window or k_end))
        scores = torch.einsum("qhd,khd->hqk", lines[0][q:q_end], keys[k:k_end]) / query.shape[-1] ** 0.5
        weights = scores.masked_fill(~seen, float("-inf")).softmax(-1)
        found.append(torch.einsum("hqk,khd->qhd", weights, values[k:k_end]))
    return torch.cat(found)
