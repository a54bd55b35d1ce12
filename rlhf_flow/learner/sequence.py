"""Sequence parallelism: ranks that share a line of tokens. Jacobs et al. 2023, arXiv:2309.14509 (Ulysses).

Each rank of a group has an equal slice of the line. Before attention the ranks exchange slices for heads, so that each
has all tokens of some heads, and exchange them back after it.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from torch import distributed as dist
from torch.distributed.nn.functional import all_reduce, all_to_all_single
from transformers import PreTrainedConfig


@dataclass(frozen=True)
class SequenceGroup:
    """The ranks of one replica, as one of them sees it."""

    rank: int
    size: int
    group: dist.ProcessGroup

    @classmethod
    def of(cls, rank: int, ranks: int, size: int) -> SequenceGroup | None:
        """The group of a rank, of neighbouring ones; None if it has no other. Collective."""
        if size == 1:
            return None
        groups = [dist.new_group(list(range(first, first + size))) for first in range(0, ranks, size)]
        return cls(rank % size, size, groups[rank // size])

    def part(self, tokens: int) -> slice:
        """This rank's slice of a line, whose length is a multiple of the size."""
        each = tokens // self.size
        return slice(self.rank * each, (self.rank + 1) * each)

    def heads(self, slices: Tensor) -> Tensor:
        """[1, heads, slice, D] -> [1, heads / size, line, D]."""
        _, heads, tokens, wide = slices.shape
        sent = slices.reshape(self.size, heads // self.size, tokens, wide).contiguous()
        received = self._exchanged(sent)  # [size, heads / size, slice, D]: of each rank, its slice
        return received.transpose(0, 1).reshape(1, heads // self.size, self.size * tokens, wide)

    def tokens(self, lines: Tensor) -> Tensor:
        """[1, line, heads / size, D] -> [1, slice, heads, D]."""
        _, tokens, heads, wide = lines.shape
        sent = lines.reshape(self.size, tokens // self.size, heads, wide).contiguous()
        received = self._exchanged(sent)  # [size, slice, heads / size, D]: of each rank, its heads
        return received.transpose(0, 1).reshape(1, tokens // self.size, self.size * heads, wide)

    def gathered(self, own: Tensor, places: Tensor, total: int) -> Tensor:
        """What all ranks have, [total, ...], from what this rank has at `places`.

        All ranks then compute the same loss, so that the gradient of `own` is `size` times that of one loss.
        """
        whole = own.new_zeros((total, *own.shape[1:])).index_copy(0, places, own)
        found: Tensor = all_reduce(whole, group=self.group)
        return found

    def _exchanged(self, sent: Tensor) -> Tensor:
        received: Tensor = all_to_all_single(torch.empty_like(sent), sent, group=self.group)
        return received


def check_heads(config: PreTrainedConfig, size: int) -> None:
    """Raise ValueError if the heads of a model cannot be shared out."""
    text = config.get_text_config()
    heads = text.num_attention_heads
    keys = text.to_dict().get("num_key_value_heads") or heads
    if heads % size or keys % size:
        most = next(n for n in range(size, 0, -1) if not heads % n and not keys % n)
        raise ValueError(
            f"learner.sequence_ranks={size} must divide the heads of the model: it has {heads} query heads and "
            f"{keys} key heads. Fix: learner.sequence_ranks={most}"
        )
