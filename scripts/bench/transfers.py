"""Measure the speed and the memory of every weight transport from two ZeRO-3 ranks to an engine.

    python scripts/bench/transfers.py                               256 MiB of random weights, in buckets of 32 MiB
    python scripts/bench/transfers.py --mib 64 --engines huggingface --transports disk

Each figure is the median of the repetitions, with the lowest and the highest. `copy` is a plain copy of the same bytes
in this process, with one thread as in workers, into memory that was touched before; shares are relative to the copy of
the same repetition. `publish` is the time that the driver waits: `gather` (from the ranks into a bucket), `hash` (the
identity of the policy), `put` (the bucket leaves the process), `probe` (a forward pass), and the rest, `other` (calls,
and waiting for a core). `load` is the time until the slowest engine has replaced its weights. `put+get` is put and
load, the transfer between processes. The first publishes write to pages of the object store that are new to the
learner's process. They are listed separately, because a run mostly writes to pages that it has used before. Ray's calls
take some milliseconds per bucket in addition to the copies. The default bucket of a run is larger than the one here:
`cluster.transfer.bucket_mib=256`.

Memory is the peak private memory of each rank process (RssAnon of /proc/self/status) until the last bucket has left,
minus the memory before. It is measured in the first publish, which is not timed. It excludes the probe, a normal
forward pass. Exit status 1 if an engine does not hold what was published, or if a rank took more than a bucket and the
largest layer.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from transfer.engine import Received, ReportingSpec
from transfer.learner import RanksSpec, Told
from transfer.models import make_model
from transfer.page import Figures, memory, table

from rlhf_flow.cluster.ray import Ray, RayEngine, RayLearner
from rlhf_flow.cluster.supervisor import FaultTolerance
from rlhf_flow.cluster.weight_sync.transport import WAYS, Transfer
from rlhf_flow.cluster.worker_group import WorkerGroup
from rlhf_flow.engine.huggingface import HuggingFace
from rlhf_flow.engine.vllm.spec import VLLM
from rlhf_flow.learner.deepspeed import DeepSpeed
from rlhf_flow.specs import Model
from rlhf_flow.types import Message, Policy, Prompt, SamplingParams
from rlhf_flow.weights.buckets import MIB
from rlhf_flow.weights.fingerprint import checkpoint_fingerprint
from rlhf_flow.weights.source import Checkpoint

ENGINES = {"huggingface": HuggingFace(), "vllm": VLLM()}
PAGE = 4096  # bytes
FRESH = 8  # maximum number of publishes into pages of the store that are new to the learner


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--mib", type=int, default=256)
    parser.add_argument("--bucket-mib", type=int, default=32)
    parser.add_argument("--repeat", type=int, default=5)
    parser.add_argument("--replicas", type=int, default=1, help="engines that load the weights (default: %(default)s)")
    parser.add_argument("--transports", nargs="+", default=WAYS, choices=WAYS)
    parser.add_argument("--engines", nargs="+", default=list(ENGINES), choices=list(ENGINES))
    asked = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        model = make_model(Path(folder), asked.mib)
        good = [measure(model, transport, engine, asked) for transport in asked.transports for engine in asked.engines]
    sys.exit(0 if all(good) else 1)


def measure(model: Model, transport: str, engine: str, asked: argparse.Namespace) -> bool:
    """Print the table of one transport. Returns whether all weights arrived and no rank took too much memory."""
    path = Path(model.path)
    start = Policy("policy", 0, checkpoint_fingerprint(path), Checkpoint(path))
    index = start.weights.index()
    size, largest = sum(entry.size for entry in index), max(entry.size for entry in index)
    transfer = Transfer(by=transport, bucket_mib=asked.bucket_mib)
    spec = Ray(
        object_store_mib=3 * size // MIB + 80,
        engines=asked.replicas,
        prompts_per_task=1,
        fault_tolerance=FaultTolerance(start_seconds=900, silence_seconds=600),
        transfer=transfer,
    )
    cluster: Any = spec.open()
    try:
        learner = cluster.learner(RanksSpec(DeepSpeed(ranks=2, zero_stage=3)), model)
        engines = cluster.engine(ReportingSpec(ENGINES[engine]), model)
        cluster.ready()
        learner.start(start)
        watched, runs = once(learner, engines, 1, size, watched=True), list[Figures]()
        while sum(not one.fresh for one in runs) < asked.repeat and len(runs) < asked.repeat + FRESH:
            runs.append(once(learner, engines, 2 + len(runs), size))
    finally:
        cluster.close()
    print(f"\n{transport} to {engine}: {size / MIB:.0f} MiB in buckets of {asked.bucket_mib} MiB")
    print("\n".join(table(runs, size)))
    allowed = asked.bucket_mib * MIB + largest
    print("\n".join(memory(watched, allowed)))
    arrived = all(one.arrived for one in (watched, *runs))
    print(f"  what the engine holds is what was published: {'yes' if arrived else 'NO'}", flush=True)
    return arrived and all(taken <= allowed for taken in watched.published)


def once(learner: RayLearner, engine: RayEngine, number: int, size: int, *, watched: bool = False) -> Figures:
    """One publish and one load."""
    learner.slot.acquire()
    learner.group.call("nudge", 1e-3 * number, watched)
    copied = copy(size)
    began = time.perf_counter()
    policy = learner.publish("policy", number)
    published = time.perf_counter() - began
    publishing: list[Told] = said(learner.group)
    spent = publishing[0].spent
    prompts = [Prompt(f"p{i}", (Message("user", "w3"),), (3,)) for i in range(len(engine.pool.groups))]
    engine.generate(prompts, policy, SamplingParams(max_tokens=1), round=number, seed=0)  # raises if the probe fails
    loads: list[Received] = [told for group in engine.pool.groups for told in said(group)]
    return Figures(
        copy=copied,
        publish=published,
        **{key: spent[key].seconds for key in ("gather", "hash", "put", "probe")},
        load=max(each.load.seconds for each in loads),
        fresh=spent["put"].faults * PAGE > size / 10,
        published=[each.taken for each in publishing],
        arrived=all(each.sha256 == policy.sha256 for each in loads),
    )


def said(group: WorkerGroup) -> Any:  # noqa: ANN401
    """The report of each process of the group."""
    import ray

    return ray.get(group.send("report"), timeout=60)


def copy(size: int) -> float:
    """Seconds of a plain copy of `size` bytes with one thread, as in workers, into memory that was touched before."""
    import torch

    torch.set_num_threads(1)
    source, target = torch.ones(size, dtype=torch.uint8), torch.zeros(size, dtype=torch.uint8)
    began = time.perf_counter()
    target.copy_(source)
    return time.perf_counter() - began


if __name__ == "__main__":
    main()
