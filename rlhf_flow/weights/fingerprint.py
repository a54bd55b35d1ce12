"""The hashes that identify weights."""

from __future__ import annotations

import hashlib
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING

from rlhf_flow.weights.buckets import MIB, content

if TYPE_CHECKING:
    from torch import Tensor

LEAF = 64 * MIB  # bytes of a tensor that one thread hashes at once
PENDING = 1024 * MIB  # bytes that wait to be hashed, at most


def fingerprint(state: Mapping[str, Tensor]) -> str:
    """The identity of weights: `Fingerprint` of all tensors, sorted by name.

    Tied tensors count under each of their names, as in `state_dict()`.
    """
    digest = Fingerprint()
    digest.add_all((name, state[name]) for name in sorted(state))
    return digest.hexdigest()


class Fingerprint:
    """sha256 over the sha256 of every leaf: name, dtype, shape and number of the leaf, and at most `LEAF` bytes.

    Tensors must come sorted by name. Leaves are hashed in threads, and by several ranks if each passes all tensors:
    rank k hashes the leaves k, k + ranks, ... The identity depends on neither number.
    """

    def __init__(self, *, threads: int = 1, rank: int = 0, ranks: int = 1) -> None:
        self._pool = ThreadPoolExecutor(threads)
        self._rank, self._ranks = rank, ranks
        self._number = 0  # of leaves so far, on all ranks
        self._leaves: dict[int, Future[bytes]] = {}
        self._pending = deque[tuple[Future[bytes], int]]()  # leaves in the order in which they came, with their bytes
        self._held = 0  # bytes of pending leaves, which stay in memory until they are hashed

    def add(self, name: str, tensor: Tensor) -> None:
        """The tensor must not change until `hexdigest`."""
        import torch

        head = f"{name}\x1f{tensor.dtype}\x1f{tuple(tensor.shape)}\x1f"
        flat = tensor.detach().contiguous().view(-1).view(torch.uint8)
        for number, leaf in enumerate(flat.split(LEAF)):
            if self._number % self._ranks == self._rank:
                self._submit(f"{head}{number}\x1f", leaf)
            self._number += 1

    def add_all(self, tensors: Iterable[tuple[str, Tensor]]) -> None:
        for _ in self.passing(tensors):
            pass

    def passing(self, tensors: Iterable[tuple[str, Tensor]]) -> Iterator[tuple[str, Tensor]]:
        """The same tensors, added as they are taken."""
        for name, tensor in tensors:
            self.add(name, tensor)
            yield name, tensor

    def hexdigest(self, union: Callable[[dict[int, bytes]], dict[int, bytes]] = dict) -> str:
        """The identity. `union`: the leaves of all ranks, from those of this one."""
        leaves = union({number: leaf.result() for number, leaf in self._leaves.items()})
        self._pool.shutdown()
        return hashlib.sha256(b"".join(leaves[number] for number in range(self._number))).hexdigest()

    def _submit(self, head: str, leaf: Tensor) -> None:
        self._leaves[self._number] = future = self._pool.submit(_leaf, head, leaf)
        self._pending.append((future, leaf.numel()))
        self._held += leaf.numel()
        while self._held > PENDING:
            oldest, size = self._pending.popleft()
            oldest.result()
            self._held -= size


def _leaf(head: str, leaf: Tensor) -> bytes:
    digest, on_host = hashlib.sha256(head.encode()), leaf.cpu()
    digest.update(content(on_host))
    return digest.digest()


def checkpoint_fingerprint(folder: Path) -> str:
    """The identity of a checkpoint on disk: sha256 over the names and hashes of its weight files.

    Raises ValueError if there are none.
    """
    files = sorted(folder.glob("*.safetensors"))
    if not files:
        raise ValueError(
            f"{folder}: no *.safetensors file. Fix: load older weights with from_pretrained() and write them again "
            "with save_pretrained()."
        )
    digest = hashlib.sha256()
    for file in files:
        with file.open("rb") as stream:
            digest.update(f"{file.name}\x1f{hashlib.file_digest(stream, 'sha256').hexdigest()}\x1f".encode())
    return digest.hexdigest()


def adapter_fingerprint(base_sha256: str, tensors_sha256: str, *, scale: float) -> str:
    """The identity of an adapter with its base: sha256 over both hashes and the scale."""
    return hashlib.sha256(f"{base_sha256}\x1f{tensors_sha256}\x1f{scale!r}".encode()).hexdigest()
