"""Publishing alone: seconds until the engines hold new weights, by phase, with and without a broadcast.

    python scripts/bench/publish.py
    python scripts/bench/publish.py --mib 1024 --ranks 4 --engines 2

The learner changes its weights and publishes them (`publish`), and every engine samples one token (`first token`: what
it loads, and its probe, are included). `gather` and `hash` are two parts of `publish` on their own. Then the learner
writes the policy and its state, as it does during the next stages of a run. Weights are random and float32. `copy` is
a plain copy of the same bytes by one thread. Needs an otherwise idle machine.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from peer.workload import llama, tokenizer
from transformers import LlamaForCausalLM

from rlhf_flow.cluster.ray import Ray
from rlhf_flow.cluster.weight_sync.transport import WAYS, Transfer
from rlhf_flow.engine.vllm.spec import VLLM
from rlhf_flow.learner.deepspeed import DeepSpeed
from rlhf_flow.learner.held_weights import HeldWeights, Pass
from rlhf_flow.learner.state import Context
from rlhf_flow.specs import Model, Place
from rlhf_flow.types import Message, Policy, Prompt, SamplingParams
from rlhf_flow.weights.buckets import MIB
from rlhf_flow.weights.fingerprint import checkpoint_fingerprint
from rlhf_flow.weights.source import Checkpoint

PHASES = ("gather", "hash", "publish", "first token", "save policy", "save state")


@dataclass(frozen=True)
class Nudged(DeepSpeed):
    """A learner whose weights change without training."""

    def open(self, model: Model, place: Place) -> Any:  # noqa: ANN401  # a learner with two more methods
        learner: Any = super().open(model, place)
        learner._probe = Context([3, 5, 7, 11], 1)
        held: HeldWeights = learner.held

        def nudge(by: float) -> None:
            for parameter in held.backend.parameters():
                parameter.seen.values.mul_(1 + by)
                parameter.master.values.mul_(1 + by)
            held.sha256 = None

        def parts() -> dict[str, float]:
            """Seconds to gather the weights, and to gather and hash them."""
            held.sha256, known = "known", held.sha256
            gather = seconds(Pass(held).finish)
            held.sha256 = None
            hashed = seconds(held.fingerprint)
            held.sha256 = known
            return {"gather": gather, "hash": hashed - gather}

        learner.nudge, learner.parts = nudge, parts
        return learner


def seconds(call: Callable[[], object]) -> float:
    start = time.perf_counter()
    call()
    return time.perf_counter() - start


def measure(*, mib: int = 128, engines: int = 1, ranks: int = 2, repeats: int = 3) -> list[dict[str, object]]:
    """Print the table; return its rows."""
    with tempfile.TemporaryDirectory() as folder:
        model, size = _model(Path(folder) / "model", mib)
        copy = statistics.median(_copy(size) for _ in range(repeats))
        found = {by: _runs(by, model, Path(folder), engines, ranks, repeats) for by in WAYS}
    about = f"{size / MIB:.0f} MiB from {ranks} ZeRO-3 ranks to {engines} vLLM engines"
    print(f"publishing {about}, seconds (lowest to highest)")
    print(f"{'':14}" + "".join(f"{by:>26}" for by in WAYS))
    for phase in PHASES:
        print(f"{phase:14}" + "".join(f"{_cell([run[phase] for run in found[by]]):>26}" for by in WAYS))
    print(f"{'copy':14}{copy:13.3f}", flush=True)
    shared: dict[str, object] = {"workload": "publish", "unit": "s", "bytes": size, "copy": copy}
    return [{**shared, "side": by, "runs": found[by]} for by in WAYS]


def _cell(values: list[float]) -> str:
    return f"{statistics.median(values):.3f} ({min(values):.3f} to {max(values):.3f})"


def _runs(by: str, model: Model, folder: Path, engines: int, ranks: int, repeats: int) -> list[dict[str, float]]:
    size = sum(entry.size for entry in Checkpoint(Path(model.path)).index())
    cluster: Any = Ray(
        engines=engines, object_store_mib=4 * size // MIB + 80, transfer=Transfer(by=by, bucket_mib=32)
    ).open()
    try:
        engine = cluster.engine(VLLM(kv_cache_mib=16, max_model_len=64), model)
        learner = cluster.learner(Nudged(ranks=ranks, zero_stage=3), model)
        cluster.ready()
        path = Path(model.path)
        learner.start(Policy("policy", 0, checkpoint_fingerprint(path), Checkpoint(path)))
        runs = [_once(learner, engine, number, folder / f"{by}-{number}") for number in range(1, repeats + 2)]
    finally:
        cluster.close()
    return runs[1:]  # the first one opens the channel, and touches memory for the first time


def _once(learner: Any, engine: Any, number: int, folder: Path) -> dict[str, float]:  # noqa: ANN401
    learner.group.call("nudge", 1e-3 * number)
    found: dict[str, float] = learner.group.call("parts")
    start = time.perf_counter()
    policy = learner.publish("policy", number)
    found["publish"] = time.perf_counter() - start
    prompts = [Prompt(f"p{at}", (Message("user", "w3"),), (3, 4)) for at in range(len(engine.pool.groups))]
    draw = SamplingParams(max_tokens=1)
    found["first token"] = seconds(lambda: engine.generate(prompts, policy, draw, round=number, seed=0))
    found["save policy"] = seconds(lambda: learner.save_policy(folder / "policy"))
    found["save state"] = seconds(lambda: learner.save_state(folder / "learner"))
    return found


def _model(folder: Path, mib: int) -> tuple[Model, int]:
    """A Llama of about so many MiB in float32."""
    words = tokenizer()
    words.save_pretrained(folder)
    config = llama(words, layers=1)
    one = sum(tensor.nbytes for tensor in LlamaForCausalLM(config).state_dict().values())
    config.num_hidden_layers = 2
    two = sum(tensor.nbytes for tensor in LlamaForCausalLM(config).state_dict().values())
    config.num_hidden_layers = max(1, round((mib * MIB - one) / (two - one)) + 1)
    LlamaForCausalLM(config).save_pretrained(folder)
    return Model(str(folder)), sum(entry.size for entry in Checkpoint(folder).index())


def _copy(size: int) -> float:
    torch.set_num_threads(1)
    source, target = torch.ones(size, dtype=torch.uint8), torch.zeros(size, dtype=torch.uint8)
    return seconds(lambda: target.copy_(source))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--mib", type=int, default=128, help="size of the weights (default: %(default)s)")
    parser.add_argument("--engines", type=int, default=1, help="vLLM engines (default: %(default)s)")
    parser.add_argument("--ranks", type=int, default=2, help="ranks of the learner (default: %(default)s)")
    parser.add_argument("--repeats", type=int, default=3, help="publishes (default: %(default)s)")
    measure(**vars(parser.parse_args()))


if __name__ == "__main__":
    main()
