"""Batches of token rows by length, for scorers that run a language model."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import TYPE_CHECKING, TypeAlias, TypeVar

if TYPE_CHECKING:
    import torch
    from torch import Tensor

Tokens: TypeAlias = tuple[int, ...]
Output = TypeVar("Output")


def by_row(
    rows: Iterable[Tokens], budget: int, forward: Callable[[list[Tokens]], Sequence[Output]]
) -> dict[Tokens, Output]:
    """The output of `forward` for each distinct row, run in batches of at most `budget` tokens."""
    batches = packed(by_length(set(rows)), budget)
    return {row: output for batch in batches for row, output in zip(batch, forward(batch), strict=True)}


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

    longest = max(map(len, batch))
    tokens = torch.full((len(batch), longest), pad, dtype=torch.long)
    mask = torch.zeros((len(batch), longest), dtype=torch.long)
    for at, row in enumerate(batch):
        tokens[at, : len(row)] = torch.tensor(row)
        mask[at, : len(row)] = 1
    return tokens.to(device), mask.to(device)
