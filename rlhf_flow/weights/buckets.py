"""Weights in buckets: a few tensors at a time, so that nobody has to hold a whole model to pass it on."""

from __future__ import annotations

import json
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, TypeAlias

if TYPE_CHECKING:
    import numpy as np
    import torch
    from torch import Tensor

MIB = 1 << 20
BUCKET = 256 * MIB  # bytes, where nobody says otherwise


@dataclass(frozen=True)
class TensorInfo:
    """What is known of a tensor without having it."""

    name: str
    dtype: str  # of torch, as float32
    shape: tuple[int, ...]

    @classmethod
    def of(cls, name: str, tensor: Tensor) -> TensorInfo:
        return cls(name, str(tensor.dtype).removeprefix("torch."), tuple(tensor.shape))

    @property
    def torch_dtype(self) -> torch.dtype:
        import torch

        dtype: torch.dtype = getattr(torch, self.dtype)
        return dtype

    @property
    def size(self) -> int:
        """Bytes."""
        size = self.torch_dtype.itemsize
        for length in self.shape:
            size *= length
        return size


Index: TypeAlias = tuple[TensorInfo, ...]  # in the order of names


def index_of(state: Mapping[str, Tensor]) -> Index:
    return tuple(TensorInfo.of(name, state[name]) for name in sorted(state))


def pack(index: Iterable[TensorInfo], limit: int) -> list[Index]:
    """The entries in their order, in groups of at most `limit` bytes; a larger tensor is a group of its own."""
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
    """Tensors that travel together, in one stretch of memory."""

    index: Index
    data: Tensor = field(repr=False, compare=False)  # uint8 [bytes]; `layout` says where each tensor is

    def tensors(self) -> Iterator[tuple[str, Tensor]]:
        """In the order of names, as views of `data`; where that is read-only, so are they."""
        yield from views(self.index, self.data)

    def __reduce__(self) -> tuple[Callable[[Index, np.ndarray], Bucket], tuple[Index, np.ndarray]]:
        """As an array, which Ray's object store passes on without a copy; a tensor it would pickle whole."""
        return _unpacked, (self.index, self.data.numpy())

    def write(self, path: Path) -> None:
        """As a safetensors file, byte for byte as its own library writes it."""
        header: dict[str, object] = {"__metadata__": {"format": "pt"}}
        entries = {entry.name: entry for entry in self.index}
        for name, start in layout(self.index).items():
            entry = entries[name]
            end = start + entry.size
            header[name] = {"dtype": CODES[entry.dtype], "shape": entry.shape, "data_offsets": (start, end)}
        text = json.dumps(header, separators=(",", ":")).encode()
        text += b" " * (-len(text) % 8)
        with path.open("wb") as file:
            file.write(len(text).to_bytes(8, "little") + text)
            file.write(self.data.numpy().data)


def _unpacked(index: Index, data: np.ndarray) -> Bucket:
    import torch

    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="The given NumPy array is not writable")
        return Bucket(index, torch.from_numpy(data))


def views(index: Index, flat: Tensor) -> Iterator[tuple[str, Tensor]]:
    """The tensors of a bucket whose memory is `flat`, uint8 [bytes], in the order of names."""
    import torch

    starts = layout(index)
    for entry in index:
        if not entry.size:  # memory of no bytes is no memory to view
            yield entry.name, torch.empty(entry.shape, dtype=entry.torch_dtype)
            continue
        stretch = flat[starts[entry.name] : starts[entry.name] + entry.size]
        yield entry.name, stretch.view(entry.torch_dtype).view(entry.shape)


# Of safetensors, those with large elements last: laid out the other way round, each tensor is aligned to its own.
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
    """Where each tensor begins, in bytes: without gaps, large elements first, then by name."""
    starts, at = {}, 0
    for entry in sorted(index, key=lambda each: (-RANKS[each.dtype], each.name)):
        starts[entry.name] = at
        at += entry.size
    return starts


Read: TypeAlias = Callable[[str, "Tensor"], None]  # puts the tensor of a name into its place in a bucket


def fill(groups: Sequence[Index], read: Read, device: torch.device | str = "cpu") -> Iterator[Bucket]:
    """The buckets of these groups, each good until the next one is asked for.

    All are filled into the memory of the largest: fresh memory costs as much as what is copied to it.
    """
    import torch

    sizes = [sum(entry.size for entry in group) for group in groups]
    room = torch.empty(max(sizes, default=0), dtype=torch.uint8, device=device)
    for group, size in zip(groups, sizes, strict=True):
        bucket = Bucket(group, room[:size])
        for name, place in bucket.tensors():
            read(name, place)
        yield bucket


def reader(stream: Iterator[tuple[str, Tensor]]) -> Read:
    """For `fill`, of tensors that come in its order; those of other names are left out."""

    def read(name: str, place: Tensor) -> None:
        place.copy_(next(tensor for each, tensor in stream if each == name))

    return read


def grouped(tensors: Iterable[tuple[str, Tensor]], limit: int) -> Iterator[dict[str, Tensor]]:
    """As they come, in groups that reach at least `limit` bytes, but for the last one."""
    group: dict[str, Tensor] = {}
    for name, tensor in tensors:
        group[name] = tensor
        if sum(each.nbytes for each in group.values()) >= limit:
            yield group
            group = {}
    if group:
        yield group
