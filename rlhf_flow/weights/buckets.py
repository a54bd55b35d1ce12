"""Weights in buckets of a few tensors, so that no process needs a second copy of a whole model to pass it on."""

from __future__ import annotations

import ctypes
import itertools
import math
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, TypeAlias

if TYPE_CHECKING:
    import numpy as np
    import torch
    from torch import Tensor

MIB = 1 << 20
BUCKET = 256 * MIB  # bytes, the default


@dataclass(frozen=True)
class TensorInfo:
    """Name, dtype and shape of a tensor."""

    name: str
    dtype: str  # torch's name, such as float32
    shape: tuple[int, ...]

    @classmethod
    def of(cls, name: str, tensor: Tensor) -> TensorInfo:
        return cls(name, dtype_name(tensor.dtype), tuple(tensor.shape))

    @property
    def torch_dtype(self) -> torch.dtype:
        return torch_dtype(self.dtype)

    @property
    def size(self) -> int:
        """Bytes."""
        return self.torch_dtype.itemsize * math.prod(self.shape)


def torch_dtype(name: str) -> torch.dtype:
    import torch

    dtype: torch.dtype = getattr(torch, name)
    return dtype


def dtype_name(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")


Index: TypeAlias = tuple[TensorInfo, ...]  # sorted by name


def content(tensor: Tensor) -> memoryview:
    """The bytes of a contiguous tensor on the CPU, without a copy. Keep the tensor while you use them.

    `Tensor.numpy` would do too, but fixes the size of the storage, and offloading sets it to 0.
    """
    if not tensor.nbytes:
        return memoryview(b"")
    return memoryview((ctypes.c_char * tensor.nbytes).from_address(tensor.data_ptr())).cast("B")


def index_of(state: Mapping[str, Tensor]) -> Index:
    return tuple(TensorInfo.of(name, state[name]) for name in sorted(state))


def pack(index: Iterable[TensorInfo], limit: int) -> list[Index]:
    """Consecutive entries in groups of at most `limit` bytes; a larger tensor is a group of its own."""
    groups: list[list[TensorInfo]] = []
    left = 0
    for entry in index:
        if not groups or entry.size > left:
            groups.append([])
            left = limit
        groups[-1].append(entry)
        left -= entry.size
    return [tuple(group) for group in groups]


@dataclass(frozen=True)
class Bucket:
    """Several tensors in one contiguous buffer."""

    index: Index
    data: Tensor = field(repr=False, compare=False)  # uint8 [bytes]; `layout` gives the offsets

    def tensors(self) -> Iterator[tuple[str, Tensor]]:
        """Views of `data`, sorted by name; read-only if `data` is."""
        yield from views(self.index, self.data)

    def __reduce__(self) -> tuple[Callable[[Index, np.ndarray], Bucket], tuple[Index, np.ndarray]]:
        """Pickle as a NumPy array, which Ray's object store passes on without a copy."""
        return _unpacked, (self.index, self.data.numpy())


def _unpacked(index: Index, data: np.ndarray) -> Bucket:
    import torch

    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="The given NumPy array is not writable")
        return Bucket(index, torch.from_numpy(data))


def views(index: Index, flat: Tensor) -> Iterator[tuple[str, Tensor]]:
    """The tensors of a bucket whose buffer is `flat`, uint8 [bytes], sorted by name."""
    import torch

    starts = layout(index)
    for entry in index:
        if not entry.size:  # an empty slice cannot be viewed as another dtype
            yield entry.name, torch.empty(entry.shape, dtype=entry.torch_dtype)
            continue
        stretch = flat[starts[entry.name] : starts[entry.name] + entry.size]
        yield entry.name, stretch.view(entry.torch_dtype).view(entry.shape)


# Names of safetensors, larger elements last. `layout` goes from large to small, so every tensor is aligned.
CODES = {
    "bool": "BOOL",
    "uint8": "U8",
    "int8": "I8",
    "float8_e5m2": "F8_E5M2",
    "float8_e4m3fn": "F8_E4M3",
    "int16": "I16",
    "uint16": "U16",
    "float16": "F16",
    "bfloat16": "BF16",
    "int32": "I32",
    "uint32": "U32",
    "float32": "F32",
    "float64": "F64",
    "int64": "I64",
    "uint64": "U64",
}
RANKS = {dtype: rank for rank, dtype in enumerate(CODES)}


def layout(index: Index) -> dict[str, int]:
    """The offset of each tensor in bytes: larger elements first, then by name, without gaps."""
    starts, at = {}, 0
    for entry in sorted(index, key=lambda each: (-RANKS[each.dtype], each.name)):
        starts[entry.name] = at
        at += entry.size
    return starts


Read: TypeAlias = Callable[[str, "Tensor"], None]  # writes the tensor of a name into its place in a bucket


def fill(
    groups: Sequence[Index], read: Read, device: torch.device | str = "cpu", *, buffers: int = 1
) -> Iterator[Bucket]:
    """The buckets of these groups. Each is valid until `buffers` further ones are filled.

    They share buffers: to allocate memory takes as long as to copy into it.
    """
    import torch

    sizes = [sum(entry.size for entry in group) for group in groups]
    room = max(sizes, default=0)
    shared = [torch.empty(room, dtype=torch.uint8, device=device) for _ in range(min(buffers, len(groups)))]
    for group, size, buffer in zip(groups, sizes, itertools.cycle(shared), strict=False):
        bucket = Bucket(group, buffer[:size])
        for name, place in bucket.tensors():
            read(name, place)
        yield bucket


def reader(stream: Iterator[tuple[str, Tensor]]) -> Read:
    """A `Read` from tensors that come in the order of `fill`. Skips other names."""

    def read(name: str, place: Tensor) -> None:
        place.copy_(next(tensor for each, tensor in stream if each == name))

    return read


def in_new_buckets(tensors: Iterable[tuple[str, Tensor]], limit: int) -> Iterator[Bucket]:
    """Consecutive tensors in buckets of at least `limit` bytes, each in memory of its own; the last may be smaller."""
    group: dict[str, Tensor] = {}
    for name, tensor in tensors:
        group[name] = tensor
        if sum(each.nbytes for each in group.values()) >= limit:
            yield from _bucket(group)
            group = {}
    if group:
        yield from _bucket(group)


def _bucket(group: Mapping[str, Tensor]) -> Iterator[Bucket]:
    return fill([index_of(group)], reader(iter(sorted(group.items()))))
