"""Real ranks for a test: one process each, which meet over gloo and stay together for many learners."""

from __future__ import annotations

import gc
import socket
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from multiprocessing import forkserver, get_context
from typing import Any

from rlhf_flow.specs import Place

# What takes fifteen seconds to import is imported once, by the process that all ranks are forked from.
PRELOADED = [
    "deepspeed.runtime.zero.stage3",
    "pandas",
    "rlhf_flow.learner.backend_deepspeed",
    "rlhf_flow.learner.backend_fsdp",
    "tests.support.jobs",
    "torch._inductor.compile_fx",
    "transformers.models.llama.modeling_llama",
]


@dataclass
class Ranks:
    """`size` processes; a job runs on all of them at once."""

    size: int

    def __enter__(self) -> Ranks:
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = free.getsockname()[1]
        self.places = [Place(rank=rank, size=self.size, port=port) for rank in range(self.size)]
        forkserver.set_forkserver_preload(PRELOADED)
        context = get_context("forkserver")
        # Frozen, what was imported is not gone through each time that a test collects garbage.
        self.pools = [ProcessPoolExecutor(1, mp_context=context, initializer=gc.freeze) for _ in self.places]
        return self

    def run(self, job: Callable[..., Any], *arguments: Any) -> Sequence[Any]:
        """`job(place, *arguments)` on every rank; what each of them returned."""
        futures = [pool.submit(job, place, *arguments) for pool, place in zip(self.pools, self.places, strict=True)]
        return [future.result(timeout=300) for future in futures]

    def __exit__(self, *error: object) -> None:
        for pool in self.pools:
            for process in pool._processes.values():
                process.kill()  # a rank that waits for another one does not hear anything else
            pool.shutdown(wait=True)
