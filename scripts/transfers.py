"""How fast weights get from two ZeRO-3 ranks to an engine, by the store and by disk, and what that takes in memory.

    python scripts/transfers.py                                      256 MiB of random weights, in buckets of 32 MiB
    python scripts/transfers.py --mib 64 --engines huggingface --transports disk

Each figure is the median of the repetitions, with the lowest and the highest. `copy` is a plain copy of the same bytes
in this process, by one thread, as workers have, into memory that was touched before; shares are of the copy made in
the same repetition. `publish` is what the driver waits for: `gather` (from the ranks into a bucket), `hash` (the
identity of the policy), `put` (the bucket out of the process), `probe` (a forward pass), and what is left, `other`
(calls, and waiting for a core). `load` is what the engine takes until its weights are replaced. `put+get` is put and
load: the way between the processes. Memory is what rank processes hold for themselves (RssAnon of /proc/self/status)
at most until the last bucket has left, above what they held before; the probe, a forward pass like any other, is not
in it. Exit status 1: what an engine holds is not what was published, or a rank took more than a bucket and the largest
layer.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rlhf_flow.buckets import MIB
from rlhf_flow.cluster.patience import Patience
from rlhf_flow.cluster.ray import Ray, RayEngine, RayLearner
from rlhf_flow.cluster.transfer import Transfer
from rlhf_flow.engine.huggingface import HuggingFace
from rlhf_flow.engine.vllm import VLLM
from rlhf_flow.learner.deepspeed import DeepSpeed
from rlhf_flow.publishing import Publishing, held
from rlhf_flow.specs import Model, Place
from rlhf_flow.types import Draw, Message, Policy, Prompt
from rlhf_flow.weights import Checkpoint, Fingerprint, checkpoint_fingerprint, fingerprint

if TYPE_CHECKING:
    from torch import Tensor

TRANSPORTS, ENGINES = ("object_store", "disk"), {"huggingface": HuggingFace(), "vllm": VLLM()}
VOCABULARY, WIDTH, INNER = 256, 1024, 2816
AIM = 0.3  # of a plain copy: put+get through the object store
PROMPTS = (Prompt("p", (Message("user", "w3"),), (3,)),)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--mib", type=int, default=256)
    parser.add_argument("--bucket-mib", type=int, default=32)
    parser.add_argument("--repeat", type=int, default=5)
    parser.add_argument("--transports", nargs="+", default=TRANSPORTS, choices=TRANSPORTS)
    parser.add_argument("--engines", nargs="+", default=list(ENGINES), choices=list(ENGINES))
    asked = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        model = make_model(Path(folder), asked.mib)
        good = [
            measure(model, transport, engine, bucket_mib=asked.bucket_mib, repeat=asked.repeat)
            for transport in asked.transports
            for engine in asked.engines
        ]
    sys.exit(0 if all(good) else 1)


def make_model(folder: Path, mib: int) -> Model:
    """A random Llama of about so many MiB in float32, nearly all of them in its layers."""
    import torch
    from tokenizers import Tokenizer, models
    from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

    layer = 4 * (4 * WIDTH * WIDTH + 3 * WIDTH * INNER)
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=VOCABULARY,
        hidden_size=WIDTH,
        intermediate_size=INNER,
        num_hidden_layers=max(1, round(mib * MIB / layer)),
        num_attention_heads=WIDTH // 64,
        max_position_embeddings=64,
        bos_token_id=0,
        eos_token_id=1,
        pad_token_id=2,
    )
    LlamaForCausalLM(config).save_pretrained(folder)
    words = Tokenizer(models.WordLevel({f"w{i}": i for i in range(VOCABULARY)}, unk_token="w2"))
    PreTrainedTokenizerFast(tokenizer_object=words, bos_token="w0", eos_token="w1", pad_token="w2").save_pretrained(
        folder
    )
    return Model(str(folder))


# -- in the processes of the learner and of the engine ----------------------------------------------------------------


@dataclass
class Clock:
    """Seconds by what they were spent on."""

    seconds: dict[str, float] = field(default_factory=dict)

    def timed(self, what: str, work: Callable[..., Any]) -> Callable[..., Any]:
        def timing(*arguments: Any, **named: Any) -> Any:  # noqa: ANN401
            began = time.perf_counter()
            try:
                return work(*arguments, **named)
            finally:
                self.seconds[what] = self.seconds.get(what, 0.0) + time.perf_counter() - began

        return timing

    def read(self) -> dict[str, float]:
        read, self.seconds = self.seconds, {}
        return read


class Ranks:
    """A rank of the learner, with a clock and an eye on its memory."""

    def __init__(self, learner: Any) -> None:  # noqa: ANN401
        from rlhf_flow.learner import preference
        from rlhf_flow.learner.state import Context

        self.learner, self.clock = learner, Clock()
        learner._probe = Context([3, 5, 7, 11], 1)
        learner.backend.whole = self.clock.timed("gather", learner.backend.whole)
        learner._prove = self.clock.timed("probe", self._proving(learner._prove))
        timed = {"add": self.clock.timed("hash", Fingerprint.add)}
        preference.Fingerprint = type("Timed", (Fingerprint,), timed)  # type: ignore[misc, assignment]
        self.start, self.averaging, self.close = learner.start, learner.averaging, learner.close

    def publish(self, name: str, round: int) -> Policy:
        return held(self.publishing(name, round))

    def publishing(self, name: str, round: int) -> Publishing:
        """As the learner's, with a clock on what is done with each bucket before the next one is asked for."""
        inner = self.learner.publishing(name, round)
        while True:
            try:
                bucket = next(inner)
            except StopIteration as end:
                policy: Policy = end.value
                return policy
            began = time.perf_counter()
            yield bucket
            self.clock.seconds["put"] = self.clock.seconds.get("put", 0.0) + time.perf_counter() - began

    def nudge(self, by: float) -> None:
        """Other weights, without a name yet."""
        for parameter in self.learner.backend.parameters():
            parameter.seen.values.mul_(1 + by)
            parameter.master.values.mul_(1 + by)
        self.learner.held = None
        self.clock.read()
        self.before = self.highest = own_memory()
        self.watching = True
        threading.Thread(target=self._watch, daemon=True).start()

    def _watch(self) -> None:
        while self.watching:
            self.highest = max(self.highest, own_memory())
            time.sleep(0.001)

    def _proving(self, prove: Callable[..., Any]) -> Callable[..., Any]:
        """All buckets are gone by then."""

        def proving(*policy: Any) -> Any:  # noqa: ANN401
            self.watching = False
            return prove(*policy)

        return proving

    def report(self) -> tuple[dict[str, float], int]:
        """Seconds since the last nudge, and the bytes that were taken above those held then."""
        return self.clock.read(), self.highest - self.before


@dataclass(frozen=True)
class RanksSpec:
    spec: DeepSpeed

    @property
    def ranks(self) -> int:
        return self.spec.ranks

    def open(self, model: Model, place: Place) -> Ranks:
        return Ranks(self.spec.open(model, place))


class Reporting:
    """An engine that says what reached it, and how long it took."""

    def __init__(self, spec: Any, model: Model, place: Place) -> None:  # noqa: ANN401
        from rlhf_flow.engine.huggingface import HuggingFaceEngine
        from rlhf_flow.engine.vllm import VLLMEngine

        self.clock, self.streamed = Clock(), ""
        kind: Any = HuggingFaceEngine if isinstance(spec, HuggingFace) else VLLMEngine
        put = self.clock.timed("load", kind._put)
        kind._put = lambda engine, slot, tensors: put(engine, slot, self._hashed(tensors))
        self.engine = spec.open(model, place)

    def _hashed(self, tensors: Iterator[tuple[str, Tensor]]) -> Iterator[tuple[str, Tensor]]:
        digest = Fingerprint()
        add = self.clock.timed("hash", digest.add)
        for name, tensor in tensors:
            add(name, tensor)
            yield name, tensor
        self.streamed = digest.hexdigest()

    def generate(self, *asked: Any, **named: Any) -> tuple[str, float]:  # noqa: ANN401
        """The fingerprint of the weights that are here, and the seconds that loading them took."""
        self.engine.generate(*asked, **named)  # the probe was right, or this raises
        spent = self.clock.read()
        networks: Sequence[Any] = vars(self.engine).get("_networks", ())
        here = fingerprint(networks[0].state_dict()) if networks else self.streamed
        return here, spent.get("load", 0.0) - spent.get("hash", 0.0)

    def close(self) -> None:
        self.engine.close()


@dataclass(frozen=True)
class ReportingSpec:
    spec: Any
    gpus: int = 1

    def open(self, model: Model, place: Place, *, mixes: bool = False) -> Reporting:
        return Reporting(self.spec, model, place)


def own_memory() -> int:
    """Bytes that this process holds for itself alone: not files, and not the object store."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) << 10 for line in lines if line.startswith("RssAnon:"))


# -- in the driver ----------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Figures:
    """Seconds of one repetition."""

    copy: float
    publish: float
    gather: float
    hash: float
    put: float
    probe: float
    load: float

    @property
    def other(self) -> float:
        return self.publish - self.gather - self.hash - self.put - self.probe


def measure(model: Model, transport: str, engine: str, *, bucket_mib: int, repeat: int) -> bool:
    """Print a table of one way. Whether everything arrived, and nobody took too much memory."""
    path = Path(model.path)
    start = Policy("policy", 0, checkpoint_fingerprint(path), Checkpoint(path))
    index = start.weights.index()
    size, largest = sum(entry.size for entry in index), max(entry.size for entry in index)
    spec = Ray(
        object_store_mib=2 * size // MIB + 256,
        patience=Patience(start_seconds=900, silence_seconds=600),
        transfer=Transfer(by=transport, bucket_mib=bucket_mib),
    )
    cluster: Any = spec.open()
    try:
        learner = cluster.learner(RanksSpec(DeepSpeed(ranks=2, zero_stage=3)), model)
        asked = cluster.engine(ReportingSpec(ENGINES[engine]), model)
        cluster.ready()
        learner.start(start)
        first, *runs = [once(learner, asked, number, size) for number in range(1 + repeat)]  # the first one warms up
    finally:
        cluster.close()
    print(f"\n{transport} to {engine}: {size / MIB:.0f} MiB in buckets of {bucket_mib} MiB, {repeat} repetitions")
    table([figures for figures, _, _ in runs], size)
    allowed = bucket_mib * MIB + largest
    peaks = [max(taken) for taken in zip(*(peaks for _, peaks, _ in (first, *runs)), strict=True)]
    print(
        f"  memory of the ranks  {', '.join(f'{peak / MIB:.1f}' for peak in peaks)} MiB above what they held; ", end=""
    )
    print(f"a bucket and the largest layer are {allowed / MIB:.1f} MiB")
    arrived = all(same for _, _, same in runs)
    print(f"  what the engine holds is what was published: {'yes' if arrived else 'NO'}")
    return arrived and max(peaks) <= allowed


def once(learner: RayLearner, engine: RayEngine, number: int, size: int) -> tuple[Figures, list[int], bool]:
    """One publish and one load; the memory each rank took; whether the weights arrived."""
    import ray

    learner.crew.ask("nudge", 1e-3 * (number + 1))
    copied = copy(size)
    began = time.perf_counter()
    policy = learner.publish("policy", number + 1)
    published = time.perf_counter() - began
    told = [rank.handle.call.remote("report", (), {}) for rank in learner.crew.ranks]
    (spent, _), *_ = reports = ray.get(told, timeout=60)
    answer: Any = engine.generate(PROMPTS, policy, Draw(max_tokens=1), round=number, seed=0)
    here, load = answer
    figures = Figures(copied, published, **{key: spent[key] for key in ("gather", "hash", "put", "probe")}, load=load)
    return figures, [taken for _, taken in reports], here == policy.sha256


def copy(size: int) -> float:
    """Seconds of a plain copy of so many bytes by one thread, as workers have, into memory that was touched before."""
    import torch

    torch.set_num_threads(1)
    source, target = torch.ones(size, dtype=torch.uint8), torch.zeros(size, dtype=torch.uint8)
    began = time.perf_counter()
    target.copy_(source)
    return time.perf_counter() - began


def table(runs: Sequence[Figures], size: int) -> None:
    rows: Mapping[str, Callable[[Figures], float]] = {
        "copy": lambda one: one.copy,
        "publish": lambda one: one.publish,
        "  gather": lambda one: one.gather,
        "  hash": lambda one: one.hash,
        "  put": lambda one: one.put,
        "  probe": lambda one: one.probe,
        "  other": lambda one: one.other,
        "load": lambda one: one.load,
        "put+get": lambda one: one.put + one.load,
        "put+get+hash": lambda one: one.put + one.load + one.hash,
        "whole": lambda one: one.publish + one.load,
    }
    print(f"  {'':14} {'GB/s':>6} {'low':>6} {'high':>6}   share of copy")
    for name, seconds in rows.items():
        rates = [size / seconds(one) / 1e9 for one in runs]
        share = statistics.median(one.copy / seconds(one) for one in runs)
        aim = f"  (aim: {AIM})" if name == "put+get" else ""
        print(f"  {name:14} {statistics.median(rates):6.2f} {min(rates):6.2f} {max(rates):6.2f}   {share:.2f}{aim}")


if __name__ == "__main__":
    main()
