"""What a worker holds on its device, moved to the host while others work there, and moved back."""

from __future__ import annotations

import gc
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Protocol, runtime_checkable

if TYPE_CHECKING:
    import torch
    from torch import Tensor, UntypedStorage


@runtime_checkable
class Offloadable(Protocol):
    """A worker that can share its GPUs with others. Between the two calls it is asked nothing else."""

    def step_aside(self) -> None:
        """Leave the GPU's memory to others. Who has left already stays as it is."""
        ...

    def come_back(self) -> None:
        """Be as before, bit for bit. Who is there already stays as it is."""
        ...


@dataclass
class HostOffload:
    """Storages that are empty for now, and on the host what belongs into them.

    A storage keeps its identity, so that tensors which share it still do: tied weights, parameters that are views of
    the flat buffers of ZeRO. The same happens on a CPU, where nothing is won, so that what is tested there is what runs
    on a GPU. That the GPU's memory is free for other processes then is not measured yet.
    """

    kept: list[tuple[UntypedStorage, Tensor]] = field(default_factory=list)

    @property
    def bytes(self) -> int:
        """On the host, of what will come back."""
        return sum(copy.nbytes for _, copy in self.kept)

    def leave(self, device: torch.device, *holders: object) -> None:
        """Empty the storages on a device of all tensors in `holders`: modules, optimizers, and what they consist of."""
        import torch

        if self.kept:
            return
        if device.type == "cuda":
            torch.cuda.synchronize(device)  # ZeRO also writes on streams of its own
        for tensor in tensors(*holders):
            storage = tensor.untyped_storage()
            # A checkpoint that is mapped into memory cannot be resized. It is on no GPU.
            if tensor.device.type == device.type and storage.nbytes() and storage.resizable():
                copy = torch.empty(storage.nbytes(), dtype=torch.uint8)
                copy.untyped_storage().copy_(storage, non_blocking=False)
                self.kept.append((storage, copy))
                storage.resize_(0)
        give_back()

    def come_back(self) -> None:
        for storage, copy in self.kept:
            storage.resize_(copy.nbytes)
            storage.copy_(copy.untyped_storage(), non_blocking=False)
        self.kept.clear()


def give_back() -> None:
    """What torch keeps of the GPU's memory for later use, for the other processes on it."""
    import torch

    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()


def tensors(*holders: object) -> Iterator[Tensor]:
    """Every tensor that can be reached from `holders`, each once: in containers, in modules and in optimizers."""
    import torch

    seen, waiting = set[int](), list(holders)
    while waiting:
        one = waiting.pop()
        if id(one) in seen:
            continue
        seen.add(id(one))
        if isinstance(one, torch.Tensor):
            yield one
            waiting += [one.grad if one.is_leaf else None, vars(one)]  # of a parameter ZeRO-3 hangs its slice on it
        elif isinstance(one, Mapping):
            waiting += [*one, *one.values()]
        elif isinstance(one, list | tuple | set | frozenset):
            waiting += one
        elif isinstance(one, torch.nn.Module):
            waiting += [*one.parameters(), *one.buffers()]
        elif type(one).__module__.startswith(("torch.optim", "deepspeed")):
            waiting.append(vars(one))
