"""The driver's processor time per prompt, from sampling to pairs, by number of engines and length of answers.

    python scripts/bench/driver_cost.py
    python scripts/bench/driver_cost.py --engines 1 256 --lengths 64 8192 --prompts 2048

Engines and learner are stubs that answer at once; 32 engines share a process. All else is what a run uses: Ray, the
ledger on a disk, a reward function in the driver's process, the selector. Needs an otherwise idle machine.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import numpy as np
import ray
import torch

from rlhf_flow.cluster.engine_client import RayEngine
from rlhf_flow.cluster.gpu_sharing import GpuScheduler, GpuSlot
from rlhf_flow.cluster.heartbeat import HeartbeatMonitor
from rlhf_flow.cluster.inbox import Inbox
from rlhf_flow.cluster.joining import start
from rlhf_flow.cluster.supervisor import Supervisor
from rlhf_flow.cluster.worker import FEED, ProcessInfo
from rlhf_flow.cluster.worker_group import WorkerGroup
from rlhf_flow.cluster.worker_pool import Pool
from rlhf_flow.metrics.off_policy import OffPolicy
from rlhf_flow.objective.dpo import DPO
from rlhf_flow.protocols import Learner
from rlhf_flow.replay import Window
from rlhf_flow.sampler.policy import PolicySampler
from rlhf_flow.schedule import Fixed
from rlhf_flow.scorer.functions.rule import Rule
from rlhf_flow.selector.best_and_worst import BestAndWorst
from rlhf_flow.specs import Place
from rlhf_flow.stages.collect import collect, select
from rlhf_flow.stages.context import CheckpointPolicy, Evaluation, RunContext
from rlhf_flow.stages.off_policy import measure_mismatch
from rlhf_flow.stages.policies import PolicyRegistry
from rlhf_flow.storage.ledger import Ledger
from rlhf_flow.storage.parquet import from_logps
from rlhf_flow.types import Message, Policy, Prompt, Response, Rollouts, SamplingParams
from rlhf_flow.verify.play import Rounds
from rlhf_flow.weights.fingerprint import fingerprint
from rlhf_flow.weights.source import InMemoryWeights

if TYPE_CHECKING:
    import pyarrow as pa

N = 2  # answers per prompt
SLOTS = 256  # answers that an engine generates at a time
SHARED = 32  # engines in a process
STORE_MIB = 1024


class Stubs:
    """The calls of `rlhf_flow.cluster.worker.Worker` that sampling makes, for many engines at a time."""

    def __init__(self) -> None:
        self.inboxes: dict[str, Inbox] = {}

    def info(self) -> ProcessInfo:
        return ProcessInfo(ray.get_runtime_context().get_node_id(), 0, 0)

    def slots(self) -> int:
        return SLOTS

    def add(self, id: str, arrived: Sequence[Prompt] | int) -> None:
        self.inboxes.setdefault(id, Inbox()).put(arrived)

    def feed(self, id: str, arguments: tuple[Policy, SamplingParams], named: dict[str, int]) -> Iterator[Any]:
        policy, draw = arguments
        take = self.inboxes.setdefault(id, Inbox())
        while (prompts := take(wait=True)) is not None:
            for prompt in prompts:
                yield Rollouts(named["round"], (prompt,), (_answers(prompt, policy, draw, named["round"]),))


def _answers(prompt: Prompt, policy: Policy, draw: SamplingParams, round: int) -> tuple[Response, ...]:
    length, random = draw.max_tokens, np.random.default_rng(abs(hash(prompt.id)))
    return tuple(
        Response(
            id=f"{round}/{draw.name}/{k}/{prompt.id}",
            tokens=random.integers(0, 32_000, length, dtype=np.int32),
            text=" ".join(map(str, random.integers(0, 1000, length))),
            logps=-random.exponential(size=length).astype(np.float32),
            truncated=False,
            draw=draw,
            seed=k,
            policy=policy.sha256,
        )
        for k in range(draw.n)
    )


class NoLearner:
    """A learner whose log-probs are constant."""

    def __init__(self, length: int) -> None:
        self.logps_of_one = np.full(length, -1.0, np.float32)

    def start(self, policy: Policy) -> None:
        pass

    def logps(self, responses: Sequence[object], wanted: Sequence[str], policy: Policy) -> pa.Table:
        return from_logps(wanted, policy.sha256, [self.logps_of_one] * len(wanted))


@dataclass(frozen=True)
class Launcher:
    """Gives a group a process that it shares with others."""

    handle: Any

    def __call__(self, names: list[str]) -> list[Any]:
        return [self.handle]

    def release(self) -> None:
        pass


def reward(prompt: Sequence[Message], text: str, meta: object) -> float:
    return float(len(set(text[:1000])))


@contextmanager
def pool(engines: int) -> Iterator[Pool]:
    """Engines in processes that end with the block."""
    monitor = ray.remote(HeartbeatMonitor).options(num_cpus=0).remote()
    shared = ray.remote(concurrency_groups={FEED: 1}, max_concurrency=SHARED)(Stubs)
    handles = [shared.options(num_cpus=0).remote() for _ in range(-(-engines // SHARED))]
    supervisor = Supervisor(0)
    slot = GpuSlot(GpuScheduler(False, supervisor))
    for number in range(engines):
        launcher = Launcher(handles[number // SHARED])
        group = WorkerGroup(f"engine {number}", launcher, 1, monitor, start_seconds=300, silence_seconds=300)
        group.start()
        group.locate()
        slot.groups.append(group)
    try:
        yield Pool(slot, supervisor)
    finally:
        for handle in (*handles, monitor):
            ray.kill(handle)


def seconds(engines: Pool, prompts: Sequence[Prompt], length: int, folder: Path) -> float:
    """Of this process, all threads, to sample, score and select one round."""
    state = {"weight": torch.zeros(1)}
    judge = Rule(f"{__name__}.reward").open(Place())
    draw = SamplingParams(n=N, max_tokens=length)
    with _closing(Ledger.open(folder, config="", identity={}, manifest={})) as ledger:
        context = RunContext(
            seed=0,
            rounds=1,
            prompts_per_commit=64,
            start=Policy("policy", 0, fingerprint(state), InMemoryWeights(state), stateless=True),
            trust_remote_code=False,
            prompts=Rounds(tuple(prompts)),
            sampler=PolicySampler([draw]),
            engine=RayEngine(engines),
            scorer=judge,
            selector=BestAndWorst(),
            objective=DPO(),
            replay=Window(),
            schedule=Fixed(),
            learner=cast(Learner, NoLearner(length)),
            evaluation=Evaluation(judge, draw=draw, every=1),
            checkpoints=CheckpointPolicy(every=1, steps=None, keep=1),
            ledger=ledger,
            observers=(),
            off_policy=OffPolicy(measured=64),
            scores_while_sampling=True,
        )
        plan, policies = context.plan(1), PolicyRegistry(context)
        before = time.process_time()
        collect(context, plan, policies)
        measure_mismatch(context, plan, policies)
        select(context, plan)
        return time.process_time() - before


@contextmanager
def _closing(ledger: Ledger) -> Iterator[Ledger]:
    try:
        yield ledger
    finally:
        ledger.close()


def measure(
    *,
    engines: Sequence[int] = (1, 16, 64, 256),
    lengths: Sequence[int] = (64, 1024, 8192),
    prompts: int = 1024,
    repeats: int = 3,
) -> list[dict[str, object]]:
    """Print the table; return its rows."""
    asked = [Prompt(f"p{b}", (Message("user", f"question {b}"),), tuple(range(32))) for b in range(prompts)]
    found: dict[tuple[int, int], list[float]] = {}
    start(object_store_mib=STORE_MIB)
    try:
        for number in engines:
            with pool(number) as opened:
                for length in lengths:
                    for repeat in range(repeats + 1):
                        with tempfile.TemporaryDirectory() as folder:
                            spent = seconds(opened, asked, length, Path(folder) / "run")
                        if repeat:  # the first is a warm-up
                            found.setdefault((number, length), []).append(1000 * spent / prompts)
    finally:
        ray.shutdown()
    print(f"driver: milliseconds of processor time per prompt, {N} answers each, {prompts} prompts a round")
    print(f"{'tokens an answer':>18}" + "".join(f"{number:>5} engines" for number in engines))
    for length in lengths:
        print(f"{length:>18}" + "".join(f"{np.median(found[number, length]):>13.2f}" for number in engines))
    return [
        {"workload": "driver", "unit": "ms/prompt", "side": f"{number} engines, {length} tokens", "runs": runs}
        for (number, length), runs in found.items()
    ]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--engines", type=int, nargs="+", default=[1, 16, 64, 256], help="(default: %(default)s)")
    parser.add_argument("--lengths", type=int, nargs="+", default=[64, 1024, 8192], help="(default: %(default)s)")
    parser.add_argument("--prompts", type=int, default=1024, help="of a round (default: %(default)s)")
    parser.add_argument("--repeats", type=int, default=3, help="rounds of each cell (default: %(default)s)")
    measure(**vars(parser.parse_args()))


if __name__ == "__main__":
    main()
