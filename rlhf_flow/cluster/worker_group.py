"""The processes of one worker on a Ray cluster, and what travels between them and the driver."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol
from uuid import uuid4

from rlhf_flow.cluster.heartbeat import BEAT_SECONDS
from rlhf_flow.cluster.supervisor import LAST_LINES, DeadWorkerError, WorkerError, cause, oom_kills
from rlhf_flow.cluster.weight_sync.object_store import ObjectStore
from rlhf_flow.cluster.weight_sync.transport import Transport, received
from rlhf_flow.cluster.worker import ProcessInfo
from rlhf_flow.weights.buckets import BUCKET

if TYPE_CHECKING:
    from ray import ObjectRef, ObjectRefGenerator
    from ray.actor import ActorHandle


MOURN_SECONDS = 5.0  # for which a failure waits until it is known that no other rank died


class Rank(NamedTuple):
    """One process of a crew, as the driver knows it."""

    handle: ActorHandle
    beats_as: str


class Launch(Protocol):
    """How the processes of a crew come and go."""

    def __call__(self, names: list[str]) -> list[ActorHandle]:
        """Processes that beat under these names."""
        ...

    def release(self) -> None:
        """Give back what was set aside for them."""
        ...


@dataclass
class WorkerGroup:
    """The processes that together are one worker: all get the same calls, the first one's answer counts."""

    name: str
    hire: Launch
    size: int
    pulse: ActorHandle
    start_seconds: float  # longest wait for a process to be up
    silence_seconds: float  # without a beat, after which one counts as hanging
    transport: Transport = field(default_factory=ObjectStore)
    bucket: int = BUCKET  # bytes
    started: float = 0.0  # time.monotonic()
    ranks: list[Rank] = field(default_factory=list)  # none once it was dismissed
    where: list[ProcessInfo] = field(default_factory=list)  # once they are up

    def start(self) -> None:
        """Start the processes; what they open, they open while others work."""
        from ray.exceptions import RayActorError

        names = [f"{self.name}/{rank}/{uuid4().hex[:8]}" for rank in range(self.size)]
        try:
            handles = self.hire(names)
        except RayActorError as error:
            raise DeadWorkerError(self.name, "it ended while it was started") from error
        self.ranks = [Rank(handle, name) for handle, name in zip(handles, names, strict=True)]
        self.where, self.started = [], time.monotonic()

    def ready(self) -> None:
        """Wait until all are up. Raises what one of them raised while it opened, or DeadWorkerError."""
        self.wait([rank.handle.ready.remote() for rank in self.ranks], timeout=self.start_seconds)
        self.locate()

    def locate(self) -> None:
        """Find out where the processes are, once they are up."""
        if not self.where:
            found = [rank.handle.whereabouts.remote() for rank in self.ranks]
            self.where = [self.get(reference, number) for number, reference in enumerate(found)]

    def send(self, method: str, *arguments: Any, **named: Any) -> list[ObjectRef]:
        """Begin a call on every rank."""
        return [rank.handle.call.remote(method, arguments, named) for rank in self.ranks]

    def ask(self, method: str, *arguments: Any) -> Any:
        """The answer of the first rank, once all have answered. Raises what one of them raised, or DeadWorkerError."""
        first, *others = (rank.handle for rank in self.ranks)
        stream = first.tell.options(num_returns="streaming").remote(method, arguments, self.transport, self.bucket)
        *sent, answer = self.hear(stream, [handle.call.remote(method, arguments, {}) for handle in others])
        return received(self.get(answer, 0), sent, self.transport)

    def dismiss(self) -> None:
        """End the processes."""
        import ray

        while self.ranks:
            ray.kill(self.ranks.pop().handle)
        self.hire.release()

    def wait(self, references: Sequence[ObjectRef], *, timeout: float | None = None) -> None:
        """One failure ends the wait: a rank without its peers hangs."""
        import ray

        waiting, waited = list(references), 0.0
        while waiting:
            done, waiting = ray.wait(waiting, num_returns=1, timeout=BEAT_SECONDS)
            if done:
                self.get(done[0], references.index(done[0]))
                continue
            waited += BEAT_SECONDS
            if timeout is not None and waited >= timeout:
                raise WorkerError(
                    f"{self.name} did not start in {timeout:g} s. Raise cluster.fault_tolerance.start_seconds."
                )
            self.listen(silence(self.pulse))

    def hear(self, stream: ObjectRefGenerator, others: Sequence[ObjectRef]) -> list[ObjectRef]:
        """All that the first rank yields, once all have answered. As of `wait`, one failure ends it."""
        import ray

        waiting: list[ObjectRef | ObjectRefGenerator] = [stream, *others]
        heard: list[ObjectRef] = []
        while waiting:
            # What is only passed on is not fetched to this node.
            (*done,), _ = ray.wait(waiting, num_returns=1, timeout=BEAT_SECONDS, fetch_local=False)
            if not done:
                self.listen(silence(self.pulse))
            for each in done:
                if each is not stream:
                    waiting.remove(each)
                    self.get(each, 1 + others.index(each))
                    continue
                try:
                    heard.append(next(stream))
                except StopIteration:
                    waiting.remove(stream)
                    self.get(heard[-1], 0)  # the answer, or what it failed of
        return heard

    def get(self, reference: ObjectRef, rank: int) -> Any:
        """What a rank that is there answered. Raises what it raised, or DeadWorkerError where its process ended."""
        import ray
        from ray.exceptions import RayActorError, RayTaskError

        try:
            return ray.get(reference)
        except RayTaskError as failure:
            self._mourn(rank)
            raise failure.cause from failure
        except RayActorError as error:
            raise self._death(rank, str(error)) from error

    def listen(self, silent: Mapping[str, float]) -> None:
        """Raise DeadWorkerError, and end the processes, where one has not beaten for too long, or never did."""
        for number, rank in enumerate(self.ranks):
            seconds = silent.get(rank.beats_as)
            if seconds is None and time.monotonic() - self.started > self.start_seconds:
                raise DeadWorkerError(self._who(number), f"it found no place within {self.start_seconds:.0f} s")
            if seconds is not None and seconds > self.silence_seconds:
                lines = self._last_lines(number)
                for place in self.where:
                    end(place)
                raise DeadWorkerError(self._who(number), f"it hung, without a sign of life for {seconds:.0f} s", lines)

    def _mourn(self, rank: int) -> None:
        """Raise DeadWorkerError where another rank died: this one may miss it, and fail, before Ray knows."""
        import ray
        from ray.exceptions import RayActorError

        asked = [(number, each.handle.whereabouts.remote()) for number, each in enumerate(self.ranks) if number != rank]
        if not asked:
            return
        done, _ = ray.wait([answer for _, answer in asked], num_returns=len(asked), timeout=MOURN_SECONDS)
        for number, answer in asked:
            try:
                if answer in done:
                    ray.get(answer)
            except RayActorError as error:
                raise self._death(number, str(error)) from error

    def _death(self, rank: int, message: str) -> DeadWorkerError:
        import ray

        lines = self._last_lines(rank)
        alive, kills = True, 0
        if self.where:
            place = self.where[rank]
            alive = any(node["Alive"] for node in ray.nodes() if node["NodeID"] == place.node)
            if place.node == ray.get_runtime_context().get_node_id():
                kills = oom_kills() - place.oom_kills
        return DeadWorkerError(self._who(rank), cause(message, lines, node_alive=alive, oom_kills=kills), lines)

    def _who(self, rank: int) -> str:
        return self.name if self.size == 1 else f"{self.name} rank {rank} of {self.size}"

    def _last_lines(self, rank: int) -> tuple[str, ...]:
        """The end of what a process wrote to stderr, where its log is on this machine."""
        import ray

        if not self.where:
            return ()
        # There is no public way to the logs of a session (ray 2.60).
        folder = Path(ray._private.worker.global_worker.node.get_logs_dir_path())
        lines = [
            line
            for path in folder.glob(f"worker-*-{self.where[rank].pid}.err")
            for line in path.read_text(errors="replace").splitlines()
            if line.strip() and not line.startswith(":")  # Ray's own markers
        ]
        return tuple(lines[-LAST_LINES:])


def silence(pulse: ActorHandle) -> Mapping[str, float]:
    """Seconds since the last beat of every worker that ever beat."""
    import ray

    heard: Mapping[str, float] = ray.get(pulse.silence.remote())
    return heard


def end(place: ProcessInfo) -> None:
    """Kill a process on whichever node it is. A process that was stopped does not hear what Ray tells it."""
    import ray
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    def kill() -> None:
        title = Path(f"/proc/{place.pid}/cmdline")
        if title.exists() and b"ray::" in title.read_bytes():  # and not another that has its number by now
            os.kill(place.pid, signal.SIGKILL)

    if place.node == ray.get_runtime_context().get_node_id():
        kill()
    elif any(node["Alive"] for node in ray.nodes() if node["NodeID"] == place.node):
        there = NodeAffinitySchedulingStrategy(place.node, soft=False)
        ray.get(ray.remote(kill).options(num_cpus=0, scheduling_strategy=there).remote(), timeout=60)
