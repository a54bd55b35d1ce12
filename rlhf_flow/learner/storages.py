"""Offload of a DeepSpeed engine: every tensor that it holds, including flat buffers that parameters are views of."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING

from rlhf_flow.weights.offload import free_gpu_cache

if TYPE_CHECKING:
    import torch
    from torch import Tensor, UntypedStorage


class OffloadedStorages:
    """Resizes storages to 0 bytes and keeps their content on the host.

    A storage keeps its identity, so tensors that share one still do: tied weights, views of ZeRO's flat buffers.
    """

    def __init__(self) -> None:
        self.copies: list[tuple[UntypedStorage, Tensor]] = []

    @property
    def bytes(self) -> int:
        return sum(copy.nbytes for _, copy in self.copies)

    def leave(self, device: torch.device, *holders: object) -> None:
        """Offload all tensors on `device` that `holders` (modules, optimizers, containers) reach. Idempotent."""
        import torch

        if self.copies:
            return
        if device.type == "cuda":
            torch.cuda.synchronize(device)  # ZeRO writes on its own streams
        for tensor in tensors(*holders):
            storage = tensor.untyped_storage()
            # A memory-mapped checkpoint cannot be resized; it is never on a GPU.
            if tensor.device.type == device.type and storage.nbytes() and storage.resizable():
                copy = torch.empty(storage.nbytes(), dtype=torch.uint8)
                copy.untyped_storage().copy_(storage, non_blocking=False)
                self.copies.append((storage, copy))
                storage.resize_(0)
        free_gpu_cache()

    def come_back(self) -> None:
        """Restore the storages, bit for bit. Idempotent."""
        for storage, copy in self.copies:
            storage.resize_(copy.nbytes)
            storage.copy_(copy.untyped_storage(), non_blocking=False)
        self.copies.clear()


def tensors(*holders: object) -> Iterator[Tensor]:
    """Every tensor that `holders` reach through containers, modules and objects of torch.optim and DeepSpeed, once."""
    import torch
    from torch.distributed.tensor import DTensor

    seen, waiting = set[int](), list(holders)
    while waiting:
        one = waiting.pop()
        if id(one) in seen:
            continue
        seen.add(id(one))
        if isinstance(one, DTensor):  # it has no storage of its own
            waiting += [one.grad, one._local_tensor]
        elif isinstance(one, torch.Tensor):
            yield one
            waiting += [one.grad if one.is_leaf else None, vars(one)]  # ZeRO-3 stores its slice as an attribute
        elif isinstance(one, Mapping):
            waiting += [*one, *one.values()]
        elif isinstance(one, list | tuple | set | frozenset):
            waiting += one
        elif isinstance(one, torch.nn.Module):
            waiting += [*one.parameters(), *one.buffers()]
        elif type(one).__module__.startswith(("torch.optim", "deepspeed")):
            waiting.append(vars(one))
