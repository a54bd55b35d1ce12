"""Weights through a file system that all nodes share: one safetensors file per bucket."""

from __future__ import annotations

import os
import shutil
import weakref
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple
from uuid import uuid4

from rlhf_flow.weights.buckets import Bucket, Index

if TYPE_CHECKING:
    from ray import ObjectRef
    from torch import Tensor


class Written(NamedTuple):
    """A complete file."""

    path: Path
    size: int  # bytes


@dataclass(frozen=True)
class SharedDisk:
    """Files get their names once they are complete. The driver deletes a policy's files when it drops the policy."""

    folder: Path  # of this run alone

    def send(self, bucket: Bucket) -> Written:
        path = self.folder / f"{uuid4().hex}.safetensors"
        partial = path.with_suffix(".part")
        bucket.write(partial)
        partial.replace(path)
        return Written(path, path.stat().st_size)

    def receive(self, groups: Sequence[Index], sent: Sequence[ObjectRef]) -> Files:
        import ray

        files = Files(tuple(groups), tuple(ray.get(list(sent))))
        weakref.finalize(files, _delete, files.written)
        return files

    def close(self) -> None:
        """Delete the folder, with the files of learners that died while they published."""
        shutil.rmtree(self.folder, ignore_errors=True)


def _delete(files: Sequence[Written]) -> None:
    for file in files:
        file.path.unlink(missing_ok=True)


@dataclass(frozen=True)
class Files:
    """Weights in safetensors files, one per bucket."""

    groups: tuple[Index, ...]  # the tensors in each file
    written: tuple[Written, ...]

    def index(self) -> Index:
        return tuple(entry for group in self.groups for entry in group)

    def stream(self) -> Iterator[tuple[str, Tensor]]:
        """Raises ValueError before the first tensor if a file is missing or has another size than was written."""
        for path, size in self.written:
            found = path.stat().st_size if path.exists() else None
            if found != size:
                problem = "is missing" if found is None else f"has {found} bytes"
                raise ValueError(
                    f"{path} {problem}, and it was written with {size}. Fix: put cluster.transfer.folder on a file "
                    "system that all nodes share, and delete none of its files during the run."
                )
        return self._tensors()

    def _tensors(self) -> Iterator[tuple[str, Tensor]]:
        from safetensors import safe_open

        for number, group in enumerate(self.groups):
            for following in self.written[number + 1 : number + 2]:
                _read_ahead(following)
            with safe_open(self.written[number].path, framework="pt") as file:
                for entry in group:
                    yield entry.name, file.get_tensor(entry.name)

    def load(self) -> dict[str, Tensor]:
        return dict(self.stream())


def _read_ahead(file: Written) -> None:
    descriptor = os.open(file.path, os.O_RDONLY)
    try:
        os.posix_fadvise(descriptor, 0, file.size, os.POSIX_FADV_WILLNEED)
    finally:
        os.close(descriptor)
