"""Batches of token rows by length, for scorers that run a language model."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import TYPE_CHECKING, TypeAlias

import numpy as np

if TYPE_CHECKING:
    import torch
    from torch import Tensor

Tokens: TypeAlias = tuple[int, ...]


def by_row(rows: Iterable[Tokens], budget: int, forward: Callable[[list[Tokens]], Tensor]) -> dict[Tokens, np.ndarray]:
    """As `in_batches`, for each distinct row."""
    distinct = by_length(set(rows))
    return dict(zip(distinct, in_batches(distinct, budget, forward), strict=True))


def in_batches(rows: Sequence[Tokens], budget: int, forward: Callable[[list[Tokens]], Tensor]) -> np.ndarray:
    """float64 [R, ...]: the output of `forward` for each row, run in batches of at most `budget` tokens.

    `rows` are sorted by length. A GPU computes while the next batch is padded: its outputs are fetched at the end.
    """
    import torch

    outputs = [forward(batch) for batch in packed(rows, budget)]
    return torch.cat(outputs).double().cpu().numpy() if outputs else np.empty(0)


def by_length(rows: set[Tokens]) -> list[Tokens]:
    """Sorted by length, then tokens: a function of the set, so that the order of the prompts changes no batch."""
    return sorted(rows, key=lambda tokens: (len(tokens), tokens))


def packed(rows: Sequence[Tokens], budget: int) -> Iterator[list[Tokens]]:
    """Batches of rows sorted by length: as many as fit into `budget` tokens, padding included, at least one."""
    batch: list[Tokens] = []
    for row in rows:
        if batch and (len(batch) + 1) * len(row) > budget:
            yield batch
            batch = []
        batch.append(row)
    if batch:
        yield batch


def padded(batch: Sequence[Tokens], pad: int, device: torch.device) -> tuple[Tensor, Tensor]:
    """Tokens and mask, [R, T] each, padded on the right."""
    import torch
    from torch.nn.utils.rnn import pad_sequence

    tokens = pad_sequence(list(map(torch.tensor, batch)), batch_first=True, padding_value=pad)
    lengths = torch.tensor(list(map(len, batch)))
    if device.type == "cuda":  # a copy from pinned memory does not wait for the batch before
        tokens, lengths = tokens.pin_memory(), lengths.pin_memory()
    tokens, lengths = tokens.to(device, non_blocking=True), lengths.to(device, non_blocking=True)
    return tokens, (torch.arange(tokens.shape[1], device=device) < lengths[:, None]).long()
