"""Where the processes of a torch process group find each other."""

from __future__ import annotations

import socket
from datetime import timedelta
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch.distributed import Store


LOOPBACK = "127.0.0.1"


def free_port(address: str) -> int:
    """A port that no process uses at the moment."""
    with socket.socket() as free:
        free.bind((address, 0))
        port: int = free.getsockname()[1]
        return port


def store(address: str, port: int, *, rank: int, size: int, seconds: float) -> Store:
    """The store of a group. Rank 0 listens at the address; on a loopback address, on that address only.

    Raises torch's DistNetworkError if rank 0 does not listen within `seconds`.
    """
    from torch import distributed as dist

    if size == 1:
        return dist.HashStore()
    listener = None  # TCPStore listens on all interfaces
    if address.startswith("127.") and rank == 0:
        listener = socket.create_server((address, port)).detach()  # closed by the store
    return dist.TCPStore(
        address, port, size, is_master=rank == 0, timeout=timedelta(seconds=seconds), master_listen_fd=listener
    )
