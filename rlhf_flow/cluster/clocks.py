"""How far the clocks of a cluster's nodes are apart: `python -m rlhf_flow.cluster.clocks ADDRESS`, in its own process.

A node is asked for the time, and is taken to have answered in the middle of the round trip; the shortest of several is
believed, which errs by half of it at most. Cristian 1989, Distributed Computing 3.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Mapping, Sequence
from typing import NamedTuple

TIMES = 8  # that a node is asked; the first one has to start a process there
SECONDS = 60.0  # longest wait for an answer


class Answer(NamedTuple):
    """Seconds since the epoch: `said` by the clock of the node, the others by that of whoever asks."""

    sent: float
    said: float
    got: float


def offset(answers: Sequence[Answer]) -> float:
    """Seconds by which a node's clock is ahead of the one here."""
    best = min(answers, key=lambda answer: answer.got - answer.sent)
    return best.said - (best.sent + best.got) / 2


def offsets(address: str) -> Mapping[str, float]:
    """Of every node that is alive, by its name and the beginning of its id."""
    import ray
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    ray.init(address=address, log_to_driver=False, logging_level="ERROR")
    try:
        found: dict[str, float] = {}
        for node in ray.nodes():
            if node["Alive"]:
                there = NodeAffinitySchedulingStrategy(node["NodeID"], soft=False)
                clock = ray.remote(lambda: time.time()).options(num_cpus=0, scheduling_strategy=there)
                answers = []
                for _ in range(TIMES):
                    sent = time.time()
                    said = ray.get(clock.remote(), timeout=SECONDS)
                    answers.append(Answer(sent, said, time.time()))
                found[f"{node['NodeManagerHostname']} ({node['NodeID'][:6]})"] = offset(answers)
        return found
    finally:
        ray.shutdown()


if __name__ == "__main__":
    print(json.dumps(offsets(sys.argv[1])))
