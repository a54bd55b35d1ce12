"""Generate with vLLM from the policies of `families.learned`, one architecture after the other, in its own process.

Run as `python -m families.served FILE live|fresh`. FILE is a pickle of name -> `Learned`. Prints one line of JSON for
each name: {name: errors}.
"""

from __future__ import annotations

import json
import os
import pickle
import sys
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

from families.answers import drawn
from families.learned import Learned, start_of
from rlhf_flow.engine.vllm.spec import VLLM
from rlhf_flow.specs import Model, Place
from rlhf_flow.weights.source import Adapter


def live(learned: Learned) -> Iterator[tuple[str, float]]:
    """Errors of vLLM in nats: opened on the start, given the policy while it runs, and given the start again."""
    adapter = learned.policy.weights if isinstance(learned.policy.weights, Adapter) else None
    spec = VLLM(kv_cache_mib=16, max_model_len=128, lora_rank=adapter.rank if adapter else 0)
    with closing(spec.open(Model(str(learned.start)), Place())) as engine:
        yield "start", drawn(engine, start_of(learned.start)).off(learned.before)
        yield "live", drawn(engine, learned.policy).off(learned.after)
        yield "start again", drawn(engine, start_of(learned.start)).off(learned.before)


def fresh(learned: Learned) -> Iterator[tuple[str, float]]:
    """The error of a vLLM opened on the published checkpoint; nothing for an adapter, which is not a checkpoint."""
    if isinstance(learned.policy.weights, Adapter):
        return
    spec = VLLM(kv_cache_mib=16, max_model_len=128)
    with closing(spec.open(Model(str(learned.published)), Place())) as engine:
        yield "fresh", drawn(engine, start_of(learned.published)).off(learned.after)


def main() -> None:
    """Each part needs its own process: vLLM's transformers backend changes the classes of the models it opens."""
    measure = {"live": live, "fresh": fresh}[sys.argv[2]]
    for name, learned in pickle.loads(Path(sys.argv[1]).read_bytes()).items():
        found: dict[str, float | str] = {}
        try:
            found.update(measure(learned))
        except Exception as error:  # any error of vLLM goes into the table
            found["error"] = f"{type(error).__name__}: {error}"
            if os.environ.get("TRACE"):
                import traceback

                traceback.print_exc()
        print(json.dumps({name: found}), flush=True)
    os._exit(0)  # skips the shutdown of each engine, which takes many seconds


if __name__ == "__main__":
    main()
