"""What the driver makes of engines that did not receive weights."""

from __future__ import annotations

from dataclasses import dataclass
from types import SimpleNamespace

import pytest

from rlhf_flow.cluster.gpu_sharing import GpuScheduler, GpuSlot
from rlhf_flow.cluster.supervisor import DeadWorkerError, FailedWorkerError, Supervisor, WorkerError
from rlhf_flow.cluster.weight_sync.direct import DirectSync, Receiving
from rlhf_flow.cluster.worker_pool import Pool
from rlhf_flow.weights.broadcast import Channel


@dataclass
class Group:
    """An engine whose `receive` failed."""

    name: str
    failure: Exception
    stopped: bool = False

    def wait(self, calls: object) -> None:
        raise self.failure

    def stop(self) -> None:
        self.stopped = True


def finish(supervisor: Supervisor, *groups: Group) -> None:
    sync = DirectSync(
        Pool(GpuSlot(GpuScheduler(False, supervisor)), supervisor), ranks=1, local=True, device="cuda", seconds=1
    )
    channel = Channel("c", "127.0.0.1", 1, rank=0, size=1 + len(groups), seconds=1)
    policy = SimpleNamespace(weights=None, sha256="", round=1)
    Receiving(sync, channel, [(group, None) for group in groups]).finish(policy)


def test_engines_that_lost_the_sender_start_again_and_count_as_no_deaths() -> None:
    failures = [FailedWorkerError("engine 0", "NCCL error"), RuntimeError("connection closed by peer")]
    groups = [Group(f"engine {number}", failure) for number, failure in enumerate(failures)]
    finish(Supervisor(limit=0), *groups)
    assert all(group.stopped for group in groups)


def test_an_engine_that_died_counts() -> None:
    group = Group("engine 0", DeadWorkerError("engine 0", "it was killed"))
    with pytest.raises(WorkerError, match="engine 0 died"):
        finish(Supervisor(limit=0), group)
    assert group.stopped
