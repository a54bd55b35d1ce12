"""Weights from the first rank of a learner to engines, bucket by bucket, while both are at it: a broadcast.

NCCL where there are GPUs (not measured), and on CPUs gloo takes NCCL's place. Nothing of it is kept: each broadcast has
a process group of its own, so that a process that was started again needs no other to know of it.

Engines take what arrives as any other weights, and vLLM reloads from it layer by layer. vLLM's own trainer side does
not come into the learner's process: to import vllm (0.32) patches torch there.
"""

from __future__ import annotations

import socket
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import timedelta
from typing import TYPE_CHECKING, Any

from rlhf_flow.buckets import Bucket, Index, views
from rlhf_flow.publishing import Publishing

if TYPE_CHECKING:
    from torch import Tensor
    from torch.distributed import Store

SENDER = 0  # its rank in the group; engines come after it


@dataclass(frozen=True)
class Broadcast:
    """One end of it. For engines these are `Weights`, which can be streamed once, and only while they are sent."""

    groups: tuple[Index, ...]  # what is in each bucket
    address: str  # of the sender's node
    port: int
    rank: int
    size: int  # the sender and all engines
    device: str  # cuda: NCCL. cpu: gloo
    seconds: float  # longest wait for another end

    def index(self) -> Index:
        return tuple(entry for group in self.groups for entry in group)

    def stream(self) -> Iterator[tuple[str, Tensor]]:
        """On the device. Raises RuntimeError where an end is lost, or does not come."""
        import torch

        line = self._join()
        for group in self.groups:
            size = sum(entry.size for entry in group)
            # Of its own for each bucket: vLLM keeps tensors until their layer is whole.
            room = torch.empty(size, dtype=torch.uint8, device=self.device)
            line.pass_on(room)
            yield from views(group, room)
        line.close()

    def load(self) -> dict[str, Tensor]:
        return dict(self.stream())

    def send(self, publishing: Publishing) -> str:
        """Pass on the buckets as they are gathered; return the sha256 of the policy. Raises as `stream`.

        After a failure it gathers on to the end: the other ranks of the learner do, and wait for this one.
        """
        import torch

        line, sent, failure = None, 0, None
        while True:
            try:
                bucket = next(publishing)
            except StopIteration as end:
                policy = end.value
                break
            if failure is not None:
                continue
            try:
                line = line or self._join()
                self._check(bucket, sent)
                line.pass_on(torch.from_numpy(bucket.data).to(self.device))
                sent += 1
            except RuntimeError as error:
                failure = error
        if line is not None:
            line.close()
        if failure is not None:
            raise failure
        sha256: str = policy.sha256
        return sha256

    def _check(self, bucket: Bucket, number: int) -> None:
        if number >= len(self.groups) or bucket.index != self.groups[number]:
            raise RuntimeError(f"bucket {number} is not the one that the engines wait for")

    def _join(self) -> Line:
        from torch import distributed as dist

        longest = timedelta(seconds=self.seconds)
        if self.device == "cpu":
            return Line(dist.ProcessGroupGloo(self._meeting(longest), self.rank, self.size, longest))
        options = dist.ProcessGroupNCCL.Options()
        options._timeout = longest
        return Line(dist.ProcessGroupNCCL(self._meeting(longest), self.rank, self.size, options))

    def _meeting(self, longest: timedelta) -> Store:
        """Where all ends find each other. On one machine nothing listens where another one could reach it."""
        from torch import distributed as dist

        listening = None  # on all interfaces, as a store does by itself
        if self.rank == SENDER and self.address.startswith("127."):
            listening = socket.create_server((self.address, self.port)).detach()  # the store closes it
        return dist.TCPStore(
            self.address,
            self.port,
            self.size,
            is_master=self.rank == SENDER,
            timeout=longest,
            master_listen_fd=listening,
        )


@dataclass(frozen=True)
class Line:
    """A process group beside those that DeepSpeed and vLLM have."""

    group: Any

    def pass_on(self, data: Tensor) -> None:
        """From the sender to all others, uint8 [bytes]."""
        self.group.broadcast(data, SENDER).wait()
        if data.is_cuda:
            import torch

            torch.cuda.synchronize()  # NCCL's wait is the stream's, not ours: the next bucket may take this memory

    def close(self) -> None:
        """NCCL holds memory of the GPU until then."""
        self.group.shutdown()
