"""The processes of one worker on a Ray cluster, and what travels between them and the driver."""

from __future__ import annotations

import os
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rlhf_flow.specs import Place
from rlhf_flow.types import Policy
from rlhf_flow.weights import Held

if TYPE_CHECKING:
    from ray import ObjectRef
    from ray.actor import ActorHandle
    from torch import Tensor


LAST_LINES = 5  # of a dead worker's log


@dataclass(frozen=True)
class Stored:
    """Weights in Ray's object store, owned by the learner that published them."""

    reference: ObjectRef

    def load(self) -> dict[str, Tensor]:
        import ray

        return dict(ray.get(self.reference))


class WorkerError(RuntimeError):
    """A worker process ended under a call: which one, why, and what it said last."""


class Worker:
    """The process of one worker. It runs what it is told on what it holds, one call at a time."""

    def __init__(self) -> None:
        self.worker: Any = None
        self.failure: Exception | None = None

    def meeting_point(self) -> tuple[str, int]:
        """This node's address and a free port on it, where ranks can meet."""
        import socket

        import ray

        with socket.socket() as free:
            free.bind(("", 0))
            return ray.util.get_node_ip_address(), free.getsockname()[1]

    def pid(self) -> int:
        return os.getpid()

    def open(self, opener: Any, place: Place) -> None:
        try:
            self.worker = opener(place)
        except Exception as failure:  # told to whoever calls first: `open` itself is not waited for
            self.failure = failure

    def ready(self) -> None:
        if self.failure is not None:
            raise self.failure

    def call(self, method: str, arguments: tuple[Any, ...], named: dict[str, Any]) -> Any:
        self.ready()
        result = getattr(self.worker, method)(*arguments, **named)
        return _stored(result) if isinstance(result, Policy) else result


def _stored(policy: Policy) -> Policy:
    """Weights of a policy leave a process through the object store, not with the answer."""
    import ray

    if not isinstance(policy.weights, Held):
        return policy
    return replace(policy, weights=Stored(ray.put(dict(policy.weights.state))))


@dataclass
class Crew:
    """The processes that together are one worker: all get the same calls, the first one's answer counts."""

    name: str
    handles: list[ActorHandle]  # none once it was dismissed
    gpus: float = 0.0  # that each of them has
    pids: list[int] = field(default_factory=list)  # once they are up

    def ready(self, *, timeout: float) -> None:
        """Wait until all are up. Raises what one of them raised while it opened, or WorkerError."""
        self._wait([handle.ready.remote() for handle in self.handles], timeout=timeout)
        import ray

        self.pids = ray.get([handle.pid.remote() for handle in self.handles])

    def ask(self, method: str, *arguments: Any, **named: Any) -> Any:
        return self._wait([handle.call.remote(method, arguments, named) for handle in self.handles], timeout=None)

    def dismiss(self) -> None:
        import ray

        while self.handles:
            ray.kill(self.handles.pop())

    def _wait(self, references: list[ObjectRef], *, timeout: float | None) -> Any:
        """The first one's answer, once all have answered. One failure ends the wait: a rank without its peers hangs."""
        import ray
        from ray.exceptions import RayActorError, RayTaskError

        waiting = list(references)
        while waiting:
            done, waiting = ray.wait(waiting, num_returns=1, timeout=timeout)
            if not done:
                raise WorkerError(f"{self.name} did not start within {timeout:.0f} s. Raise cluster.start_seconds.")
            rank = references.index(done[0])
            who = self.name if len(references) == 1 else f"{self.name} rank {rank} of {len(references)}"
            try:
                ray.get(done[0])
            except RayTaskError as failure:
                raise failure.cause from failure
            except RayActorError as death:
                raise WorkerError(
                    f"the process of {who} died: {' '.join(str(death).split())} {self._last_words(rank)}"
                    "The run stopped; everything committed is kept. Start the same command again to go on."
                ) from death
        return ray.get(references[0])

    def _last_words(self, rank: int) -> str:
        """The end of what a process wrote to stderr, where its log is on this machine."""
        import ray

        if not self.pids:
            return ""
        # There is no public way to the logs of a session (ray 2.60).
        folder = Path(ray._private.worker.global_worker.node.get_logs_dir_path())
        lines = [
            line
            for path in folder.glob(f"worker-*-{self.pids[rank]}.err")
            for line in path.read_text(errors="replace").splitlines()
            if line.strip() and not line.startswith(":")  # Ray's own markers
        ]
        return "Its last lines: " + " | ".join(lines[-LAST_LINES:]) + ". " if lines else ""
