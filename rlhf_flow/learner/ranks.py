"""Ranks that share a model: their process group, and how they gather what each has a slice of."""

from __future__ import annotations

import ctypes
import os
import sys
import warnings
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from contextlib import suppress
from functools import cached_property

import torch
from torch import Tensor, nn
from torch import distributed as dist
from torch.distributed.constants import default_pg_timeout

from rlhf_flow.learner.backend import K, Parameter, Part, V
from rlhf_flow.learner.batching import Packed
from rlhf_flow.learner.logits import Reader, spread
from rlhf_flow.learner.sequence import SequenceGroup
from rlhf_flow.specs import Place
from rlhf_flow.system.rendezvous import store

M_MMAP_THRESHOLD = -3  # of mallopt, in malloc.h


def backend_of(place: Place) -> str:
    return "gloo" if place.device == "cpu" else "nccl"


def join(place: Place) -> None:
    """Join the process group: gloo on CPUs, NCCL on GPUs. Uses the default group if there is one."""
    warnings.filterwarnings("ignore", category=FutureWarning, module=r"torch\.distributed")
    if place.device == "cpu":
        return_freed_memory()
    if dist.is_initialized():
        return
    if place.address.startswith("127."):
        os.environ.setdefault("GLOO_SOCKET_IFNAME", "lo")
    seconds = default_pg_timeout.total_seconds()
    meeting = store(place.address, place.port, rank=place.rank, size=place.size, seconds=seconds)
    dist.init_process_group(backend_of(place), store=meeting, rank=place.rank, world_size=place.size)


def return_freed_memory() -> None:
    """Let glibc give large buffers back to the system when they are freed.

    By default it keeps those of up to 32 MiB for later, and what ranks gather and free layer by layer becomes several
    times the size of the model (measured with FSDP on four ranks: 1,000 MB instead of 200 MB).
    """
    if sys.platform == "linux":
        with suppress(AttributeError):  # another C library
            ctypes.CDLL(None).mallopt(M_MMAP_THRESHOLD, 1 << 20)


class Ranks(ABC):
    """The part of `Backend` that all ranks do together."""

    module: nn.Module  # what a forward pass calls

    def __init__(self, place: Place, sequence_ranks: int = 1) -> None:
        self.rank, self.size, self.device = place.rank, place.size, torch.device(place.device)
        self.replica, self.replicas = self.rank // sequence_ranks, self.size // sequence_ranks
        self.sequence = SequenceGroup.of(self.rank, self.size, sequence_ranks)
        self.shared = {} if self.sequence is None else {"sequence": self.sequence}  # arguments of a forward pass

    @abstractmethod
    def parameters(self) -> Sequence[Parameter]: ...

    @abstractmethod
    def frozen(self) -> Mapping[str, Part]: ...

    def logps(self, packed: Packed) -> Tensor:
        return self._forward(packed)

    def spread(self, packed: Packed) -> Tensor:
        return self._forward(packed, spread)

    def _forward(self, packed: Packed, *read: Reader) -> Tensor:
        inputs = (torch.from_numpy(array).to(self.device) for array in (packed.tokens, packed.at, packed.targets))
        found: Tensor = self.module(*inputs, *read, **packed.layout, **self.shared)
        return found

    def sum(self, values: Tensor) -> Tensor:
        if self.size == 1:
            return values.cpu()
        total = values.to(self.device, copy=True)
        if self.sequence is not None and self.sequence.rank:
            total.zero_()  # the ranks of a replica have the same values
        dist.all_reduce(total)
        return total.cpu()

    def whole(self, parameter: Parameter, part: Part, *, to: int) -> Tensor | None:
        if part.everywhere or self.size == 1:
            return part.values.view(parameter.shape) if self.rank == to else None
        ranges = self._ranges[parameter.name]
        if self.rank != to:
            if part.values.numel():
                dist.send(part.values.to(self.device), dst=to)
            return None
        whole = torch.empty(parameter.shape, dtype=part.values.dtype, device=self.device)
        for rank, (start, count) in enumerate(ranges):
            target = whole.view(-1).narrow(0, start, count)
            if rank == to:
                target.copy_(part.values)
            elif count:
                dist.recv(target, src=rank)
        return whole

    def gather(self, parts: Sequence[tuple[Parameter, Part]], dtype: torch.dtype) -> list[Tensor]:
        split = [(parameter, part) for parameter, part in parts if not part.everywhere and self.size > 1]
        gathered = iter(self._all_gathered(split, dtype) if split else ())
        return [
            part.values.view(parameter.shape).to(dtype) if part.everywhere or self.size == 1 else next(gathered)
            for parameter, part in parts
        ]

    def _all_gathered(self, parts: Sequence[tuple[Parameter, Part]], dtype: torch.dtype) -> list[Tensor]:
        """One all-gather of a flat buffer with this rank's slices, cast before they travel."""
        ranges = [self._ranges[parameter.name] for parameter, _ in parts]  # [P][ranks] of (start, count)
        longest = max(sum(ranks[rank][1] for ranks in ranges) for rank in range(self.size))
        mine = torch.empty(longest, dtype=dtype, device=self.device)
        at = 0
        for _, part in parts:
            at += mine.narrow(0, at, part.values.numel()).copy_(part.values).numel()
        everything = torch.empty(self.size * longest, dtype=dtype, device=self.device)
        # As bytes, because gloo does not gather every dtype.
        dist.all_gather_into_tensor(everything.view(torch.uint8), mine.view(torch.uint8))
        wholes, read = [], [rank * longest for rank in range(self.size)]
        for (parameter, _), ranks in zip(parts, ranges, strict=True):
            whole = torch.empty(parameter.shape, dtype=dtype, device=self.device)
            for rank, (start, count) in enumerate(ranks):
                whole.view(-1).narrow(0, start, count).copy_(everything.narrow(0, read[rank], count))
                read[rank] += count
            wholes.append(whole)
        return wholes

    @cached_property
    def _ranges(self) -> dict[str, list[tuple[int, int]]]:
        """Per parameter, (start, count) of the elements that each rank updates. These never change. Collective."""
        parameters = self.parameters()
        own = [(parameter.master.start, parameter.master.values.numel()) for parameter in parameters]
        local = torch.tensor(own, dtype=torch.int64, device=self.device)  # [P, 2]
        gathered = [torch.empty_like(local) for _ in range(self.size)]
        dist.all_gather(gathered, local)
        by_parameter = torch.stack(gathered, dim=1).tolist()  # [P, ranks, 2]
        return {
            parameter.name: [tuple(one) for one in ranks]
            for parameter, ranks in zip(parameters, by_parameter, strict=True)
        }

    def union(self, items: Mapping[K, V]) -> dict[K, V]:
        if self.size == 1:
            return dict(items)
        gathered: list[dict[K, V]] = [{}] * self.size
        dist.all_gather_object(gathered, dict(items))
        return {key: value for each in gathered for key, value in each.items()}
