"""Weights from one process into the memory of others, bucket by bucket: NCCL between GPUs, gloo between CPUs."""

from __future__ import annotations

import json
from collections import deque
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from datetime import timedelta
from typing import TYPE_CHECKING, Any

from rlhf_flow.system.rendezvous import store
from rlhf_flow.weights.buckets import Bucket, TensorInfo

if TYPE_CHECKING:
    from torch import Tensor
    from torch.distributed import Work

SENDER = 0  # its rank


@dataclass(frozen=True)
class Channel:
    """A group of processes that broadcast weights, as one of them sees it. The sender has rank 0."""

    id: str  # of the group
    address: str  # of the sender's node
    port: int
    rank: int
    size: int
    seconds: float  # longest wait for another process
    device: str = "cpu"  # cpu or cuda, on which the weights are at both ends

    def open(self) -> Broadcast:
        """Join the group. Raises RuntimeError if another process does not."""
        from torch import distributed as dist

        longest = timedelta(seconds=self.seconds)
        meeting = store(self.address, self.port, rank=self.rank, size=self.size, seconds=self.seconds)
        if self.device == "cpu":
            return Broadcast(dist.ProcessGroupGloo(meeting, self.rank, self.size, longest), longest, self.device)
        options = dist.ProcessGroupNCCL.Options()
        options._timeout = longest
        return Broadcast(dist.ProcessGroupNCCL(meeting, self.rank, self.size, options), longest, self.device)


@dataclass(frozen=True)
class Broadcast:
    """The opened end of a channel. It is of no use after an error."""

    group: Any  # a process group of torch
    longest: timedelta  # wait for one bucket
    device: str  # cpu, or cuda for the current GPU

    def send(self, buckets: Iterable[Bucket]) -> None:
        """Send the buckets. Each must stay valid until the one after the next: one travels while the next is made."""
        with self._or_abort():
            sending: deque[Work] = deque()
            for bucket in buckets:
                self._send_text(json.dumps([asdict(entry) for entry in bucket.index]))
                sending.append(self._begin(bucket.data))
                if len(sending) == 2:
                    self._finish(sending.popleft())
            for work in sending:
                self._finish(work)
            self._send_text("")

    def receive(self) -> Iterator[Bucket]:
        """The buckets that the sender sends, each in memory of its own."""
        import torch

        with self._or_abort():
            while text := self._receive_text():
                index = tuple(TensorInfo(one["name"], one["dtype"], tuple(one["shape"])) for one in json.loads(text))
                size = sum(entry.size for entry in index)
                yield Bucket(index, self._pass(torch.empty(size, dtype=torch.uint8, device=self.device)))

    def _send_text(self, text: str) -> None:
        import torch

        content = text.encode()
        self._pass(torch.tensor([len(content)], device=self.device))
        if content:
            self._pass(torch.frombuffer(bytearray(content), dtype=torch.uint8).to(self.device))

    def _receive_text(self) -> str:
        import torch

        length = int(self._pass(torch.zeros(1, dtype=torch.int64, device=self.device)))
        if not length:
            return ""
        content = self._pass(torch.zeros(length, dtype=torch.uint8, device=self.device))
        return bytes(content.cpu().numpy()).decode()

    def close(self) -> None:
        self.group.shutdown()

    def _pass(self, data: Tensor) -> Tensor:
        self._finish(self._begin(data))
        return data

    def _begin(self, data: Tensor) -> Work:
        return self.group.broadcast(data, SENDER)

    def _finish(self, work: Work) -> None:
        # With a timeout NCCL's wait blocks this thread, and raises if another process is lost.
        work.wait(self.longest)

    @contextmanager
    def _or_abort(self) -> Iterator[None]:
        """Abort the group after an error. NCCL would wait for a lost process until its watchdog kills this one."""
        try:
            yield
        except BaseException:
            self.group.abort()
            raise
