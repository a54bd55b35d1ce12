"""The processes of one worker as the driver sees them: it calls them, and detects that they died or hang."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol
from uuid import uuid4

from rlhf_flow.cluster.failures import BrokenWorkerError
from rlhf_flow.cluster.heartbeat import BEAT_SECONDS, Progress
from rlhf_flow.cluster.supervisor import LAST_LINES, DeadWorkerError, FailedWorkerError, cause_of_death, oom_kills
from rlhf_flow.cluster.weight_sync.transport import received
from rlhf_flow.cluster.worker import ProcessInfo
from rlhf_flow.weights.broadcast import Channel
from rlhf_flow.weights.buckets import BUCKET

if TYPE_CHECKING:
    from ray import ObjectRef, ObjectRefGenerator
    from ray.actor import ActorHandle

PEER_SECONDS = 5.0  # after a rank failed, longest wait for Ray to report that another rank died


class Rank(NamedTuple):
    handle: ActorHandle
    heartbeat: str  # its name at the heartbeat monitor


class Launcher(Protocol):
    def __call__(self, names: list[str]) -> list[ActorHandle]:
        """Start one process per name; each sends heartbeats under its name."""
        ...

    def release(self) -> None:
        """Give back the resources that were reserved for the processes."""
        ...


@dataclass
class WorkerGroup:
    """The processes of one worker. All ranks get the same calls; the answer is that of rank 0."""

    name: str
    launcher: Launcher
    size: int
    monitor: ActorHandle
    start_seconds: float  # longest wait for a process, and for a worker that makes no progress as it opens
    silence_seconds: float  # a process without a heartbeat for so long counts as hanging
    bucket: int = BUCKET  # bytes
    started: float = 0.0  # time.monotonic()
    ranks: list[Rank] = field(default_factory=list)  # empty if the group is stopped
    processes: list[ProcessInfo] = field(default_factory=list)  # empty until they are up
    sent: str = ""  # sha256 of the policy that the learner sent to this engine, if it still holds it

    def start(self) -> None:
        """Start the processes, without waiting until their workers are open."""
        from ray.exceptions import RayActorError

        names = [f"{self.name}/{rank}/{uuid4().hex[:8]}" for rank in range(self.size)]
        try:
            handles = self.launcher(names)
        except RayActorError as error:
            raise DeadWorkerError(self.name, "it exited while it started") from error
        self.ranks = [Rank(handle, name) for handle, name in zip(handles, names, strict=True)]
        self.processes, self.started, self.sent = [], time.monotonic(), ""

    def stop(self) -> None:
        """Kill the processes."""
        import ray

        while self.ranks:
            ray.kill(self.ranks.pop().handle)
        self.launcher.release()

    @property
    def up(self) -> bool:
        return bool(self.ranks and self.processes)

    def locate(self) -> None:
        """Fill `processes`, once the processes are up."""
        if not self.processes:
            answers = [rank.handle.info.remote() for rank in self.ranks]
            self.processes = [self.get(answer, rank) for rank, answer in enumerate(answers)]

    def send(self, method: str, *arguments: object) -> list[ObjectRef]:
        """Begin a call of a method of `Worker` on every rank."""
        return [getattr(rank.handle, method).remote(*arguments) for rank in self.ranks]

    def pieces(self, method: str, arguments: Sequence[Any], named: Mapping[str, Any]) -> ObjectRefGenerator:
        """Begin a call on rank 0, which yields its answer in pieces."""
        first: ObjectRefGenerator
        first = self.ranks[0].handle.pieces.options(num_returns="streaming").remote(method, arguments, named)
        return first

    def slots(self) -> int:
        """The answers that an engine generates at a time. Raises what `get` raises."""
        call = self.ranks[0].handle.slots.remote()
        self.wait([call])
        slots: int = self.get(call, 0)
        return slots

    def feed(self, id: str, arguments: Sequence[Any], named: Mapping[str, Any]) -> ObjectRefGenerator:
        """Begin to generate on rank 0, an engine: `Worker.add` brings the prompts."""
        first: ObjectRefGenerator
        first = self.ranks[0].handle.feed.options(num_returns="streaming").remote(id, arguments, named)
        return first

    def call(self, method: str, *arguments: Any, channel: Channel | None = None) -> Any:
        """Call every rank and return the answer of rank 0. Raises what a rank raised, or DeadWorkerError.

        `channel`: for published weights. Without it they go to the object store.
        """
        first, *others = (rank.handle for rank in self.ranks)
        stream = first.stream.options(num_returns="streaming").remote(method, arguments, channel, self.bucket)
        *sent, answer = self._collect(stream, [handle.follow.remote(method, arguments) for handle in others])
        return received(self.get(answer, 0), sent)

    def wait(self, calls: Sequence[ObjectRef]) -> None:
        """Wait for one call per rank. The first failure ends the wait, because a rank without its peers hangs."""
        import ray

        waiting = list(calls)
        while waiting:
            done, waiting = ray.wait(waiting, num_returns=1, timeout=BEAT_SECONDS)
            if done:
                self.get(done[0], calls.index(done[0]))
            else:
                self.check_heartbeats(silence(self.monitor))

    def get(self, call: ObjectRef, rank: int) -> Any:
        """The answer of a call that ended.

        Raises what the rank raised, DeadWorkerError if a process died, FailedWorkerError if only a new one can go on.
        """
        import ray
        from ray.exceptions import RayActorError, RayTaskError

        try:
            return ray.get(call)
        except RayTaskError as failure:
            self._check_peers(rank)
            if isinstance(failure.cause, BrokenWorkerError):
                raise FailedWorkerError(self.title(rank), str(failure.cause), self._last_lines(rank)) from failure
            raise failure.cause from failure
        except RayActorError as error:
            raise self._death(rank, str(error)) from error

    def check_heartbeats(self, silent: Mapping[str, float]) -> None:
        """Raise DeadWorkerError if a process hangs or never started; `silent` is what `silence` returned.

        The processes of a group that hangs are killed.
        """
        for number, rank in enumerate(self.ranks):
            seconds = silent.get(rank.heartbeat)
            if seconds is None and time.monotonic() - self.started > self.start_seconds:
                raise DeadWorkerError(self.title(number), f"it found no place within {self.start_seconds:.0f} s")
            if seconds is not None and seconds > self.silence_seconds:
                lines = self._last_lines(number)
                for process in self.processes:
                    kill(process)
                raise DeadWorkerError(self.title(number), f"no heartbeat for {seconds:.0f} s; killed", lines)

    def _collect(self, stream: ObjectRefGenerator, others: Sequence[ObjectRef]) -> list[ObjectRef]:
        """All that rank 0 yields, once all ranks have answered. The first failure ends the wait, as in `wait`."""
        import ray

        waiting: list[ObjectRef | ObjectRefGenerator] = [stream, *others]
        yielded: list[ObjectRef] = []
        while waiting:
            # The driver passes the buckets on, so it does not fetch them to its node.
            (*done,), _ = ray.wait(waiting, num_returns=1, timeout=BEAT_SECONDS, fetch_local=False)
            if not done:
                self.check_heartbeats(silence(self.monitor))
            for each in done:
                if each is not stream:
                    waiting.remove(each)
                    self.get(each, 1 + others.index(each))
                    continue
                try:
                    yielded.append(next(stream))
                except StopIteration:
                    waiting.remove(stream)
                    self.get(yielded[-1], 0)  # the answer, or the error
        return yielded

    def _check_peers(self, rank: int) -> None:
        """Raise DeadWorkerError if a peer of a failed rank died: the rank may have failed for want of the peer."""
        import ray
        from ray.exceptions import RayActorError

        calls = {number: each.handle.info.remote() for number, each in enumerate(self.ranks) if number != rank}
        if not calls:
            return
        done, _ = ray.wait([*calls.values()], num_returns=len(calls), timeout=PEER_SECONDS)
        for number, call in calls.items():
            try:
                if call in done:
                    ray.get(call)
            except RayActorError as error:
                raise self._death(number, str(error)) from error

    def _death(self, rank: int, message: str) -> DeadWorkerError:
        import ray

        lines = self._last_lines(rank)
        alive, kills = True, 0
        if self.processes:
            process = self.processes[rank]
            alive = _is_alive(process.node)
            if process.node == ray.get_runtime_context().get_node_id():
                kills = oom_kills() - process.oom_kills
        reason = cause_of_death(message, lines, node_alive=alive, oom_kills=kills)
        return DeadWorkerError(self.title(rank), reason, lines)

    def title(self, rank: int) -> str:
        return self.name if self.size == 1 else f"{self.name} rank {rank} of {self.size}"

    def _last_lines(self, rank: int) -> tuple[str, ...]:
        """The end of a process's stderr, if its log is on this machine."""
        import ray

        if not self.processes:
            return ()
        # Ray 2.60 has no public way to a session's logs.
        folder = Path(ray._private.worker.global_worker.node.get_logs_dir_path())
        lines = [
            line
            for path in folder.glob(f"worker-*-{self.processes[rank].pid}.err")
            for line in path.read_text(errors="replace").splitlines()
            if line.strip() and not line.startswith(":")  # Ray's own markers
        ]
        return tuple(lines[-LAST_LINES:])


def silence(monitor: ActorHandle) -> Mapping[str, float]:
    """Seconds since the last heartbeat of every worker that has sent one."""
    import ray

    seconds: Mapping[str, float] = ray.get(monitor.silence.remote())
    return seconds


def progress(monitor: ActorHandle) -> Mapping[str, Progress]:
    """How far every worker has opened that has sent a heartbeat."""
    import ray

    made: Mapping[str, Progress] = ray.get(monitor.progress.remote())
    return made


def kill(process: ProcessInfo) -> None:
    """Send SIGKILL to a process on any node. `ray.kill` does not reach a stopped process."""
    import ray
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    def kill_here() -> None:
        title = Path(f"/proc/{process.pid}/cmdline")
        if title.exists() and b"ray::" in title.read_bytes():  # the pid may have been reused
            os.kill(process.pid, signal.SIGKILL)

    if process.node == ray.get_runtime_context().get_node_id():
        kill_here()
    elif _is_alive(process.node):
        there = NodeAffinitySchedulingStrategy(process.node, soft=False)
        ray.get(ray.remote(kill_here).options(num_cpus=0, scheduling_strategy=there).remote(), timeout=60)


def _is_alive(node: str) -> bool:
    import ray

    return any(each["Alive"] for each in ray.nodes() if each["NodeID"] == node)
