"""Measure load balancing over engines on uneven prompts, and the driver's time per prompt with many engines.

Engines are stubs that sleep as long as their prompts say, on a real Ray cluster of this machine. The first part gives
tasks to engines as they become free, and compares that with an even split of the same prompts. The second part measures
the driver's processor time per prompt with a growing number of engines.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

from rlhf_flow.cluster.clients import RayEngine
from rlhf_flow.cluster.gpu_sharing import GpuScheduler, GpuSlot
from rlhf_flow.cluster.heartbeat import HeartbeatMonitor
from rlhf_flow.cluster.joining import environment
from rlhf_flow.cluster.supervisor import Supervisor
from rlhf_flow.cluster.worker_group import Rank, WorkerGroup
from rlhf_flow.cluster.worker_pool import Call, Pool
from rlhf_flow.types import Message, Policy, Prompt, Rollouts, SamplingParams
from rlhf_flow.weights.source import InMemoryWeights

if TYPE_CHECKING:
    from ray.actor import ActorHandle

DRAW = SamplingParams(n=1)
POLICY = Policy("policy", 0, "0", InMemoryWeights({}))


class Engines:
    """Many stub engines in one process; each call sleeps in its own thread."""

    def pieces(
        self, method: str, arguments: tuple[Sequence[Prompt], Policy, SamplingParams], named: dict[str, int]
    ) -> Iterator[Rollouts]:
        prompts = arguments[0]
        time.sleep(sum(float(str(prompt.meta["seconds"])) for prompt in prompts))
        yield Rollouts(named["round"], tuple(prompts), tuple(() for _ in prompts))

    def info(self) -> None:
        """Returns once the process has started."""


class There:
    """A launcher for actors that already exist."""

    def __call__(self, names: list[str]) -> list[ActorHandle]:
        return []

    def release(self) -> None:
        """There is nothing to release."""


def pool(engines: int) -> Pool:
    """A pool of stub engines, 64 in each process."""
    import ray

    monitor = ray.remote(HeartbeatMonitor).options(num_cpus=0).remote()
    processes = [ray.remote(Engines).options(num_cpus=0, max_concurrency=64).remote() for _ in range(-(-engines // 64))]
    groups = []
    for number in range(engines):
        group = WorkerGroup(f"engine {number}", There(), 1, monitor=monitor, start_seconds=600, silence_seconds=600)
        group.ranks = [Rank(processes[number // 64], str(number))]
        group.started = time.monotonic()
        group.processes = [None]  # type: ignore[list-item]  # not read
        groups.append(group)
    ray.get([process.info.remote() for process in processes])
    supervisor = Supervisor(0)
    return Pool(GpuSlot(GpuScheduler(shared=False, supervisor=supervisor), groups), supervisor)


def prompts(number: int, *, longest: float, uneven: bool) -> list[Prompt]:
    """Prompts that take `longest` seconds each; if `uneven`, all but the first eighth take an eighth of that."""
    return [
        Prompt(
            id=f"p{k}",
            messages=(Message("user", f"question {k}"),),
            tokens=tuple(range(32)),
            meta={"seconds": longest if not uneven or k < number // 8 else longest / 8},
        )
        for k in range(number)
    ]


def uneven(engines: int, number: int) -> None:
    """Print the time with load balancing and with an even split of the same prompts."""
    asked = prompts(number, longest=0.08, uneven=True)
    workers = pool(engines)
    engine = RayEngine(workers, prompts_per_task=2)
    named = {"round": 1, "seed": 0}
    began = time.perf_counter()
    stolen = engine.generate(asked, POLICY, DRAW, round=1, seed=0)
    handed = time.perf_counter() - began
    size = -(-number // engines)
    pieces = [asked[at : at + size] for at in range(0, number, size)]
    began = time.perf_counter()
    parts = workers.run([Call("stream", (piece, POLICY, DRAW), named) for piece in pieces])
    split = time.perf_counter() - began
    same = [prompt.id for part in parts for prompt in part.prompts] == [prompt.id for prompt in stolen.prompts]
    print(
        f"{number} uneven prompts on {engines} engines: handed out {handed:.2f} s, split {split:.2f} s, "
        f"ratio {handed / split:.2f}; the same answers in the same order: {same}"
    )


def scale(counts: Sequence[int], number: int) -> None:
    """Print the driver's processor time per prompt for each number of engines."""
    asked = prompts(number, longest=0.0, uneven=False)
    first = 0.0
    for engines in counts:
        engine = RayEngine(pool(engines), prompts_per_task=16)
        engine.generate(asked[:1000], POLICY, DRAW, round=1, seed=0)
        began = time.process_time()
        answered = engine.generate(asked, POLICY, DRAW, round=1, seed=0)
        spent = (time.process_time() - began) / number
        assert [prompt.id for prompt in answered.prompts] == [prompt.id for prompt in asked]
        first = first or spent
        print(
            f"{engines:4} engines: {1e6 * spent:6.1f} us of the driver per prompt, {spent / first:.2f} of one's",
            flush=True,
        )


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--engines", type=int, nargs="+", default=[1, 16, 64, 256])
    parser.add_argument("--prompts", type=int, default=100_000)
    asked = parser.parse_args()
    with environment():
        import ray

        ray.init(
            address="local", num_cpus=8, object_store_memory=1 << 30, include_dashboard=False, logging_level="ERROR"
        )
        try:
            uneven(engines=8, number=512)
            scale(asked.engines, asked.prompts)
        finally:
            ray.shutdown()
    return 0


if __name__ == "__main__":
    sys.exit(main())
