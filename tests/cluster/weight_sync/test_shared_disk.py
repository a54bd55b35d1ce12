"""Weights in files of a shared folder, without a cluster: test_transport.py sends them from ranks to an engine."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
import torch

from rlhf_flow.cluster.weight_sync.shared_disk import Files, SharedDisk
from rlhf_flow.cluster.weight_sync.transport import call_and_send
from rlhf_flow.types import Policy
from rlhf_flow.weights.publish import DetachedWeights
from rlhf_flow.weights.source import InMemoryWeights

TENSORS = {f"w{at}": torch.arange(at + 1, dtype=torch.float32) for at in range(5)}


class Publisher:
    def publish(self, name: str, round: int) -> Policy:
        return Policy(name, round, "hash", InMemoryWeights(TENSORS))


@pytest.fixture
def files(tmp_path: Path) -> Files:
    """The published weights, in several buckets."""
    sending = call_and_send(Publisher(), "publish", ("policy", 1), transport=SharedDisk(tmp_path), bucket=16)
    written = []
    while True:
        try:
            written.append(next(sending))
        except StopIteration as end:
            assert isinstance(end.value.weights, DetachedWeights)
            return Files(end.value.weights.groups, tuple(written))


def test_they_arrive_bit_for_bit(files: Files) -> None:
    assert len(files.written) > 2
    loaded = files.load()
    assert loaded.keys() == TENSORS.keys()
    assert all(torch.equal(loaded[name], tensor) for name, tensor in TENSORS.items())


def test_a_file_that_is_cut_or_gone_is_refused_before_any_tensor_is_read(files: Files) -> None:
    last = files.written[-1].path
    os.truncate(last, last.stat().st_size - 1)
    with pytest.raises(ValueError, match=rf"{last.name} has \d+ bytes, and it was written with \d+"):
        files.stream()
    last.unlink()
    with pytest.raises(ValueError, match=f"{last.name} is missing"):
        files.stream()


def test_closing_deletes_the_folder(files: Files, tmp_path: Path) -> None:
    (tmp_path / "of-a-learner-that-died.part").touch()
    SharedDisk(tmp_path).close()
    assert not tmp_path.exists()
