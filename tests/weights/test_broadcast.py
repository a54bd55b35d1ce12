"""Weights are broadcast bit for bit, bucket by bucket; a lost process is an error at every other end, and no wait."""

from __future__ import annotations

import socket
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta

import pytest
import torch

from rlhf_flow.weights.broadcast import Broadcast, Channel
from rlhf_flow.weights.buckets import fill, index_of, pack, reader

STATE = {f"w{n}": torch.arange(n, dtype=torch.float32) for n in range(9)} | {"x": torch.ones(3, dtype=torch.bfloat16)}
GROUPS = pack(index_of(STATE), 40)


@pytest.fixture(autouse=True)
def loopback(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GLOO_SOCKET_IFNAME", "lo")


def ends(size: int, seconds: float = 20.0) -> list[Channel]:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    return [Channel("group", "127.0.0.1", port, rank, size, seconds) for rank in range(size)]


def send(channel: Channel, times: int = 1) -> None:
    opened = channel.open()
    for _ in range(times):
        opened.send(fill(GROUPS, reader(iter(sorted(STATE.items()))), buffers=2))
    opened.close()


def receive(channel: Channel, times: int = 1) -> dict[str, torch.Tensor]:
    opened, found = channel.open(), {}
    for _ in range(times):
        found = {name: tensor for bucket in opened.receive() for name, tensor in bucket.tensors()}
    opened.close()
    return found


def test_every_receiver_gets_all_tensors_and_a_channel_serves_many_times() -> None:
    sender, *receivers = ends(3)
    with ThreadPoolExecutor(3) as pool:
        sent = pool.submit(send, sender, 3)
        for found in pool.map(lambda end: receive(end, 3), receivers):
            assert found.keys() == STATE.keys()
            assert all(torch.equal(found[name], STATE[name]) for name in STATE)
        sent.result()


def test_received_tensors_do_not_share_memory_with_later_buckets() -> None:
    sender, receiver = ends(2)
    with ThreadPoolExecutor(2) as pool:
        pool.submit(send, sender)
        opened = receiver.open()
        buckets = list(opened.receive())
    assert len(buckets) == len(GROUPS) > 3
    assert len({bucket.data.data_ptr() for bucket in buckets if bucket.data.numel()}) == len(buckets)


def test_an_end_that_is_lost_in_the_middle_is_an_error_at_the_others() -> None:
    sender, good, bad = ends(3, seconds=8.0)  # as long as a thread that is lost is waited for
    with ThreadPoolExecutor(3) as pool:
        sent, received = pool.submit(send, sender), pool.submit(receive, good)
        lost = bad.open()
        next(lost.receive())
        lost.group.abort()
        lost.close()
        for end in (sent, received):
            with pytest.raises(RuntimeError):
                end.result(timeout=60)


class Hanging:
    """A process group whose peers are lost, as NCCL has it: a broadcast neither ends nor fails by itself."""

    def __init__(self) -> None:
        self.aborted = False
        self.waits: list[timedelta] = []

    def broadcast(self, data: torch.Tensor, root: int) -> Hanging:
        return self

    def wait(self, timeout: timedelta) -> None:
        self.waits.append(timeout)
        raise torch.distributed.DistBackendError("NCCL timeout")

    def abort(self) -> None:
        self.aborted = True


@pytest.mark.parametrize("side", ["send", "receive"])
def test_a_wait_is_bounded_and_its_group_is_aborted(side: str) -> None:
    group = Hanging()
    end = Broadcast(group, timedelta(seconds=7), "cpu")
    with pytest.raises(RuntimeError, match="NCCL timeout"):
        end.send([]) if side == "send" else next(end.receive())
    assert group.aborted
    assert group.waits == [timedelta(seconds=7)]
