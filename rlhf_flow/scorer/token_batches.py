"""Rows of tokens in batches by length: what any judge that is a language model reads."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, TypeAlias

if TYPE_CHECKING:
    import torch
    from torch import Tensor

Tokens: TypeAlias = tuple[int, ...]


def by_length(rows: set[Tokens]) -> list[Tokens]:
    """A function of the set alone, so that the order of the prompts changes no batch."""
    return sorted(rows, key=lambda tokens: (len(tokens), tokens))


def packed(rows: Sequence[Tokens], budget: int) -> Iterator[list[Tokens]]:
    """Batches of rows that are sorted by length, as many as fit into `budget` tokens with padding, at least one."""
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

    longest = max(map(len, batch))
    tokens = torch.full((len(batch), longest), pad, dtype=torch.long)
    mask = torch.zeros((len(batch), longest), dtype=torch.long)
    for at, row in enumerate(batch):
        tokens[at, : len(row)] = torch.tensor(row)
        mask[at, : len(row)] = 1
    return tokens.to(device), mask.to(device)
