"""From one process to others, stretch by stretch: a process group, or memory that two of them see.

Nothing is kept: each transfer opens its own, so that a process that was started again needs no other to know of it.
"""

from __future__ import annotations

import mmap
import os
import pickle
import socket
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, TypeAlias

if TYPE_CHECKING:
    from torch import Tensor
    from torch.distributed import Store

FIRST = 0  # who passes on; all others take
LONGEST = 1 << 16  # bytes of a message between two processes
TAKEN = b"taken"

PassOn: TypeAlias = "Callable[[Tensor], None]"  # from the first to all others, uint8 [bytes], as many for all


class Channel(Protocol):
    """One end of it."""

    @property
    def device(self) -> str:
        """Where what is passed on is, at every end."""
        ...

    def open(self) -> AbstractContextManager[PassOn]:
        """Meet the others. It and what it gives raise RuntimeError where another end is lost, or does not come."""
        ...


@dataclass(frozen=True)
class ProcessGroupChannel:
    """A process group beside those of DeepSpeed and vLLM: NCCL where there are GPUs (not measured), else gloo."""

    address: str  # of the first one's node
    port: int
    rank: int
    size: int
    device: str
    seconds: float  # longest wait for another end

    @contextmanager
    def open(self) -> Iterator[PassOn]:
        group = self._join()

        def pass_on(data: Tensor) -> None:
            group.broadcast(data, FIRST).wait()
            _finish(data)  # NCCL's wait is the stream's, not ours: this memory may be used for the next stretch

        yield pass_on
        group.shutdown()  # until then NCCL holds memory of the GPU

    def _join(self) -> Any:
        from torch import distributed as dist

        longest = timedelta(seconds=self.seconds)
        if self.device == "cpu":
            return dist.ProcessGroupGloo(self._meeting(longest), self.rank, self.size, longest)
        options = dist.ProcessGroupNCCL.Options()
        options._timeout = longest
        return dist.ProcessGroupNCCL(self._meeting(longest), self.rank, self.size, options)

    def _meeting(self, longest: timedelta) -> Store:
        """Where all ends find each other. On one machine nothing listens where another one could reach it."""
        from torch import distributed as dist

        listening = None  # on all interfaces, as a store does by itself
        if self.rank != FIRST:  # torch's own next try would come after a second
            with _telling():
                _again(lambda: socket.create_connection((self.address, self.port), self.seconds).close(), self.seconds)
        elif self.address.startswith("127."):
            listening = socket.create_server((self.address, self.port)).detach()  # the store closes it
        return dist.TCPStore(
            self.address,
            self.port,
            self.size,
            is_master=self.rank == FIRST,
            timeout=longest,
            master_listen_fd=listening,
        )


@dataclass(frozen=True)
class SharedMemoryChannel:
    """Memory that two processes of one machine see: of the GPU that both are on (not measured), or of the host.

    One puts a stretch there, and the other takes it before the next one comes.
    """

    path: Path  # of the socket at which they meet
    first: bool
    device: str
    room: int  # bytes of the longest stretch
    seconds: float  # longest wait for the other end

    @contextmanager
    def open(self) -> Iterator[PassOn]:
        with self._meeting() as other:
            other.settimeout(self.seconds)
            room = self._made(other) if self.first else self._found(other)

            def give(data: Tensor) -> None:
                room[: data.numel()].copy_(data)
                _finish(data)
                with _telling():
                    other.send(data.numel().to_bytes(8, "little"))
                    _heard(other.recv(LONGEST) == TAKEN)

            def take(data: Tensor) -> None:
                with _telling():
                    _heard(other.recv(LONGEST) == data.numel().to_bytes(8, "little"))
                    data.copy_(room[: data.numel()])
                    _finish(data)
                    other.send(TAKEN)

            yield give if self.first else take

    @contextmanager
    def _meeting(self) -> Iterator[socket.socket]:
        """The other end; a death closes it. Who has the memory listens, and nobody but this user can come."""
        with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as end, _telling():
            end.settimeout(self.seconds)
            if not self.first:
                _again(lambda: end.connect(str(self.path)), self.seconds)
                yield end
                return
            end.bind(str(self.path))
            try:
                self.path.chmod(0o600)
                end.listen(1)
                other, _ = end.accept()
            finally:
                self.path.unlink()
            with other:
                yield other

    def _made(self, other: socket.socket) -> Tensor:
        """The memory, and the other end is told of it."""
        import torch

        if self.device == "cpu":
            file = os.memfd_create("rlhf-flow")
            try:
                os.ftruncate(file, max(1, self.room))
                socket.send_fds(other, [b"file"], [file])
                return _mapped(file)
            finally:
                os.close(file)  # both ends keep the memory, without a name that could be left behind
        from torch.multiprocessing.reductions import reduce_tensor

        room = torch.empty(self.room, dtype=torch.uint8, device=self.device)
        _, handle = reduce_tensor(room)
        other.send(pickle.dumps((_gpu(), handle)))
        return room

    def _found(self, other: socket.socket) -> Tensor:
        """The memory that the other end made."""
        import torch

        message, files, *_ = socket.recv_fds(other, LONGEST, 1)
        _heard(bool(message))
        if self.device == "cpu":
            try:
                return _mapped(files[0])
            finally:
                os.close(files[0])
        from torch.multiprocessing.reductions import rebuild_cuda_tensor

        gpu, handle = pickle.loads(message)
        if gpu != _gpu():
            raise RuntimeError(f"memory of the GPU {gpu} cannot be shared with a process on {_gpu()}")
        arguments = list(handle)
        arguments[6] = torch.cuda.current_device()  # both see the GPU under numbers of their own
        room: Tensor = rebuild_cuda_tensor(*arguments)
        return room


def _mapped(file: int) -> Tensor:
    import torch

    return torch.frombuffer(mmap.mmap(file, 0), dtype=torch.uint8)


def _gpu() -> str:
    import torch

    return str(torch.cuda.get_device_properties(torch.cuda.current_device()).uuid)


def _finish(data: Tensor) -> None:
    """Wait until what was begun on a GPU is done."""
    if data.is_cuda:
        import torch

        torch.cuda.synchronize()


def _again(connect: Callable[[], None], seconds: float) -> None:
    """As soon as somebody listens there."""
    began = time.monotonic()
    while True:
        try:
            return connect()
        except (FileNotFoundError, ConnectionRefusedError, PermissionError):
            if time.monotonic() - began > seconds:
                raise
            time.sleep(0.01)


@contextmanager
def _telling() -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise RuntimeError(f"the other process is lost: {error or type(error).__name__}") from error


def _heard(expected: bool) -> None:
    if not expected:
        raise RuntimeError("the other process is lost, or speaks of something else")
