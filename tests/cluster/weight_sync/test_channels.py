"""What passes from one process to others, and what is noticed where one of them is lost."""

from __future__ import annotations

import multiprocessing
import os
import signal
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import pytest
import torch

from rlhf_flow.cluster.weight_sync.broadcast import StreamedWeights, send
from rlhf_flow.cluster.weight_sync.channels import PassOn, SharedMemoryChannel
from rlhf_flow.weights.buckets import Bucket, Index, TensorInfo

ROOM, SECONDS = 402, 60.0


def ends(folder: Path, seconds: float = SECONDS) -> tuple[SharedMemoryChannel, SharedMemoryChannel]:
    first, other = (SharedMemoryChannel(folder / "meeting", first, "cpu", ROOM, seconds) for first in (True, False))
    return first, other


def groups() -> list[Index]:
    return [
        (TensorInfo("a", "float32", (50, 2)), TensorInfo("b", "bfloat16", ())),
        (TensorInfo("c", "int64", (7,)),),
        (),
    ]


def buckets(which: Sequence[Index]) -> list[Bucket]:
    torch.manual_seed(0)
    sizes = [sum(entry.size for entry in group) for group in which]
    return [
        Bucket(group, torch.randint(0, 255, (size,), dtype=torch.uint8))
        for group, size in zip(which, sizes, strict=True)
    ]


def take(end: SharedMemoryChannel, number: int) -> None:
    """In a process of its own: takes so many stretches, and then it is lost."""
    with end.open() as pass_on:
        for _ in range(number):
            pass_on(torch.empty(ROOM, dtype=torch.uint8))
        os.kill(os.getpid(), signal.SIGKILL)


def test_an_engine_reads_in_shared_memory_what_a_learner_sends(tmp_path: Path) -> None:
    first, other = ends(tmp_path)
    sent = buckets(groups())
    weights = StreamedWeights(tuple(groups()), other)
    assert [entry.name for entry in weights.index()] == ["a", "b", "c"]
    with ThreadPoolExecutor() as pool:
        sending = pool.submit(send, sent, groups(), [first])
        found = weights.load()
        sending.result(SECONDS)
    expected = {name: tensor for bucket in sent for name, tensor in bucket.tensors()}
    assert found.keys() == expected.keys()
    for name, tensor in expected.items():
        assert torch.equal(found[name].reshape(-1).view(torch.uint8), tensor.reshape(-1).view(torch.uint8))
    assert not list(tmp_path.iterdir())


def test_the_one_who_comes_first_waits_for_the_other(tmp_path: Path) -> None:
    first, other = ends(tmp_path)
    with ThreadPoolExecutor() as pool:
        taking = pool.submit(StreamedWeights(tuple(groups()), other).load)
        time.sleep(0.3)
        send(buckets(groups()), groups(), [first])
        assert taking.result(SECONDS).keys() == {"a", "b", "c"}


def test_a_process_that_dies_is_missed_at_once(tmp_path: Path) -> None:
    first, other = ends(tmp_path, seconds=500)
    process = multiprocessing.get_context("spawn").Process(target=take, args=(other, 2))
    process.start()
    with first.open() as pass_on:
        pass_on(torch.ones(ROOM, dtype=torch.uint8))
        with pytest.raises(RuntimeError, match="the other process is lost"):
            for _ in range(3):
                pass_on(torch.ones(ROOM, dtype=torch.uint8))
    process.join(60)
    assert process.exitcode == -signal.SIGKILL


@pytest.mark.parametrize("number", [0, 1])
def test_nobody_waits_for_ever_for_one_who_does_not_come(number: int, tmp_path: Path) -> None:
    with pytest.raises(RuntimeError, match="lost"), ends(tmp_path, seconds=0.3)[number].open():
        pass
    assert not list(tmp_path.iterdir())


def test_a_stretch_of_another_length_is_refused(tmp_path: Path) -> None:
    first, other = ends(tmp_path)
    with ThreadPoolExecutor() as pool:
        sending = pool.submit(send, buckets(groups()), groups(), [first])
        with pytest.raises(RuntimeError, match="speaks of something else"), other.open() as pass_on:
            pass_on(torch.empty(8, dtype=torch.uint8))
        with pytest.raises(RuntimeError, match="lost"):
            sending.result(SECONDS)


@dataclass
class Stub:
    """A line that writes down what passes by, and fails at one of the buckets; -1: when it is opened."""

    fails_at: int | None = None
    passed: list[int] = field(default_factory=list)
    closed: bool = False
    device: str = "cpu"

    @contextmanager
    def open(self) -> Iterator[PassOn]:
        self._fail(-1)

        def pass_on(data: torch.Tensor) -> None:
            self._fail(len(self.passed))
            self.passed.append(data.numel())

        yield pass_on
        self.closed = True

    def _fail(self, at: int) -> None:
        if at == self.fails_at:
            raise RuntimeError(f"lost at {at}")


@pytest.mark.parametrize(
    ("fail_at", "passed"),
    [((None, None), (3, 3)), ((None, 1), (3, 1)), ((1, None), (1, 1)), ((None, -1), (3, 0)), ((-1, None), (0, 0))],
)
def test_a_line_that_fails_ends_with_those_after_it_and_all_buckets_are_gathered(
    fail_at: tuple[int | None, ...], passed: tuple[int, ...]
) -> None:
    lines, asked = [Stub(at) for at in fail_at], iter(buckets(groups()))
    failing = [at for at in fail_at if at is not None]
    if failing:
        with pytest.raises(RuntimeError, match=f"lost at {failing[0]}"):
            send(asked, groups(), lines)
    else:
        send(asked, groups(), lines)
    assert next(asked, None) is None
    assert tuple(len(line.passed) for line in lines) == passed
    assert [line.closed for line in lines] == [bool(number) for number in passed]


def test_buckets_that_nobody_waits_for_are_not_sent() -> None:
    line = Stub()
    with pytest.raises(RuntimeError, match="bucket 1 is not the one that the engines wait for"):
        send(buckets(groups()), [groups()[0], groups()[0]], [line])
    assert len(line.passed) == 1
