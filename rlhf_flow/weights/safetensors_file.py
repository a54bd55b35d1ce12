"""Writes safetensors files tensor by tensor, and hashes them on the way."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from rlhf_flow.weights.buckets import CODES, Index, content, layout

if TYPE_CHECKING:
    from torch import Tensor


def write(path: Path, index: Index, data: Iterable[Tensor], *, metadata: Mapping[str, str] | None = None) -> str:
    """Write the bytes of safetensors' `save_file`, and flush them to disk. Returns their sha256.

    `data`: all elements in the order of `layout`, in tensors on the CPU. `save_file` would need them all at once, and
    would make a file of mode 0600.
    """
    digest = hashlib.sha256()
    with path.open("wb") as file:
        head = _header(index, metadata)
        digest.update(head)
        file.write(head)
        for tensor in data:
            dense = tensor.detach().contiguous()
            digest.update(content(dense))
            file.write(content(dense))
        file.flush()
        os.fsync(file.fileno())
    return digest.hexdigest()


def _header(index: Index, metadata: Mapping[str, str] | None) -> bytes:
    entries = {entry.name: entry for entry in index}
    header: dict[str, object] = {"__metadata__": metadata} if metadata else {}
    for name, start in layout(index).items():
        entry = entries[name]
        header[name] = {"dtype": CODES[entry.dtype], "shape": entry.shape, "data_offsets": (start, start + entry.size)}
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    return len(text).to_bytes(8, "little") + text
