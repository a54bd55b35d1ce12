"""Merges checkpoints of one architecture: every weight of the result is the weighted sum of theirs."""

from __future__ import annotations

import shutil
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rlhf_flow.system.files import new_folder, read_json
from rlhf_flow.weights.buckets import CODES, Index, TensorInfo, layout
from rlhf_flow.weights.safetensors_file import write
from rlhf_flow.weights.start_checkpoint import header, merging

if TYPE_CHECKING:
    from torch import Tensor

WEIGHTS = (".safetensors", ".bin", ".pt", ".pth", ".gguf")
ABOUT = ("README.md", "rlhf_flow.json")  # files of an export, which are about its own weights
DTYPES = {code: dtype for dtype, code in CODES.items()}
Stored = Mapping[str, tuple[Path, TensorInfo]]  # name -> the file that holds the tensor, dtype and shape


def merge_checkpoints(terms: Sequence[tuple[Path, float]], out: Path) -> str:
    """Write the checkpoint whose weights are the sum of the checkpoints' weights times their factors; return a summary.

    Sums are float32 and are rounded once, to the dtype of the first checkpoint. Tensors of whole numbers and all other
    files are the first one's. Memory holds a few tensors at a time. Raises ValueError if a folder holds no weights in
    safetensors, if names or shapes of tensors differ, or if `out` has files.
    """
    stored = [_stored(folder) for folder, _ in terms]
    for (folder, _), other in zip(terms[1:], stored[1:], strict=True):
        _check_same(terms[0][0], stored[0], folder, other)
    with new_folder(out) as new:
        for file in sorted({file for file, _ in stored[0].values()}):
            index = tuple(sorted((info for at, info in stored[0].values() if at == file), key=lambda info: info.name))
            write(new / file.name, index, _sums(index, stored, terms), metadata={"format": "pt"})
        for file in terms[0][0].iterdir():
            if file.is_file() and file.suffix not in WEIGHTS and file.name not in ABOUT:
                shutil.copyfile(file, new / file.name)
    total = sum(factor for _, factor in terms)
    return f"{out}: {len(stored[0])} tensors of {len(terms)} checkpoints; their weights sum to {total:g}"


def _sums(index: Index, stored: Sequence[Stored], terms: Sequence[tuple[Path, float]]) -> Iterator[Tensor]:
    """The tensors of `index` in the order of its file."""
    import torch
    from safetensors import safe_open

    with ExitStack() as stack:
        opened: dict[Path, Any] = {}

        def read(one: Stored, name: str) -> Tensor:
            file = one[name][0]
            if file not in opened:
                opened[file] = stack.enter_context(safe_open(file, framework="pt"))
            tensor: Tensor = opened[file].get_tensor(name)
            return tensor

        for name in layout(index):
            first = read(stored[0], name)
            if not first.is_floating_point():
                yield first
                continue
            total = torch.zeros(first.shape)
            for one, (_, factor) in zip(stored, terms, strict=True):
                total.add_(read(one, name).float(), alpha=factor)
            yield total.to(first.dtype)


def _stored(folder: Path) -> Stored:
    """The tensors of a checkpoint. Raises ValueError if it has none, or if they are quantised."""
    if not (folder / "config.json").is_file():
        raise ValueError(f"{folder} holds no checkpoint: it has no config.json. Fix: name a model, RUN or RUN@ROUND.")
    if "quantization_config" in read_json(folder / "config.json"):
        raise ValueError(f"{folder}: its weights are quantised, and cannot be summed. Fix: {merging(folder)}")
    found = {
        name: (file, TensorInfo(name, DTYPES[one["dtype"]], tuple(one["shape"])))
        for file in sorted(folder.glob("*.safetensors"))
        for name, one in header(file).items()
    }
    if not found:
        raise ValueError(f"{folder} holds no *.safetensors. Fix: {merging(folder)}")
    return found


def _check_same(first: Path, has: Stored, folder: Path, other: Stored) -> None:
    """Raises ValueError if the tensors of a folder have other names or shapes than the first one's."""
    if more := sorted(has.keys() ^ other.keys()):
        lacking = folder if more[0] in has else first
        raise ValueError(
            f"{folder} and {first} have different tensors: {lacking} lacks {more[0]}. "
            "Fix: merge checkpoints of one architecture."
        )
    for name, (_, info) in has.items():
        if (shape := other[name][1].shape) != info.shape:
            raise ValueError(
                f"{folder}: {name} has shape {list(shape)}, and {list(info.shape)} in {first}. "
                "Fix: merge checkpoints of one architecture and vocabulary."
            )
