"""Offload to host memory, for workers that take turns on the same GPUs."""

from __future__ import annotations

import gc
from typing import TYPE_CHECKING, Protocol, runtime_checkable

if TYPE_CHECKING:
    import torch
    from torch import nn


@runtime_checkable
class Offloadable(Protocol):
    """A worker that can share its GPUs with others. It gets no other call between the two."""

    def step_aside(self) -> None:
        """Offload to host memory. Idempotent."""
        ...

    def come_back(self) -> None:
        """Load everything back, bit for bit. Idempotent."""
        ...


@runtime_checkable
class Discards(Protocol):
    """A worker whose weights can be loaded again."""

    def discard(self) -> None:
        """As `Offloadable.step_aside`, without a copy on the host. Idempotent."""
        ...


class HostOffload:
    """Moves modules to the CPU and back to their device."""

    def __init__(self) -> None:
        self._modules: tuple[nn.Module, ...] = ()
        self._device: torch.device | None = None

    def leave(self, device: torch.device, *modules: nn.Module) -> None:
        """Offload `modules`, which are on `device`. Idempotent."""
        if self._modules:
            return
        self._device, self._modules = device, modules
        for module in modules:
            module.to("cpu")
        free_gpu_cache()

    def come_back(self) -> None:
        """Undo `leave`. Idempotent."""
        for module in self._modules:
            module.to(self._device)
        self._modules = ()


def free_gpu_cache() -> None:
    """Return the memory that torch caches to the other processes on the GPU."""
    import torch

    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
