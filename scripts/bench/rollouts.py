"""Rollouts alone: tokens per second of vLLM engines beside bare vLLM.

    python scripts/bench/rollouts.py
    python scripts/bench/rollouts.py --dtype bfloat16 --engines 0
    python scripts/bench/rollouts.py --multiprocess  # bare vLLM as it is by default, its core in a process of its own

One engine: `stream` of rlhf_flow's engine beside `vllm.LLM.generate` of all prompts in one call. vLLM chooses its batch
sizes. Each timing has a fresh process with all cores; the sides alternate (A B A B ...). Four engines, of one thread
each, on Ray: `stream` of cluster=ray beside the same actors, each given a quarter of the prompts in one call.

Both sides sample the same tokens with the same seeds and return the log-prob of each; lengths are geometric, 25 tokens
on average, at most 128. The model is a random Llama of 5.8 M parameters. Needs an otherwise idle machine: threads that
share a core with other processes wait for each other.
"""

from __future__ import annotations

import argparse
import os
import tempfile
import time
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, replace
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import numpy as np
from peer.workload import SEED, W5V, WORDS, build
from speeds import Speed, rows, table

from rlhf_flow.engine.requests import first_seed
from rlhf_flow.engine.vllm.spec import VLLM
from rlhf_flow.specs import Model, Place
from rlhf_flow.system import machine
from rlhf_flow.types import Policy, Prompt, Rollouts, SamplingParams
from rlhf_flow.weights.source import Checkpoint

ROUND = 1
LONGEST = 256  # tokens of prompt and answer
WARM_UP = 8  # prompts
CACHE = 512  # MiB of KV cache on a CPU, where all answers at a time fit


@dataclass(frozen=True)
class Work:
    """What both sides do."""

    folder: Path  # of the model
    prompts: int
    draw: SamplingParams
    dtype: str
    threads: int  # of one engine
    multiprocess: bool = False  # bare vLLM runs its core in a process of its own

    @property
    def spec(self) -> VLLM:
        return VLLM(max_model_len=LONGEST, kv_cache_mib=CACHE)

    @property
    def model(self) -> Model:
        return Model(str(self.folder), dtype=self.dtype)

    def policy(self, name: str = "start") -> Policy:
        return Policy(name, 0, name, Checkpoint(self.folder))

    def asked(self) -> tuple[list[Prompt], list[Prompt]]:
        """The prompts for the warm-up, and those that are timed: 8 to 40 tokens."""
        draw = np.random.default_rng(SEED)
        rows = [draw.integers(3, WORDS, size=draw.integers(8, 41)).tolist() for _ in range(WARM_UP + self.prompts)]
        prompts = [Prompt(f"p{number}", (), tuple(row)) for number, row in enumerate(rows)]
        return prompts[:WARM_UP], prompts[WARM_UP:]


def default(folder: Path, dtype: str) -> Work:
    """256 prompts with 4 answers each; the model is written into the folder."""
    model, _ = build(W5V, folder)
    return Work(model, 256, SamplingParams(n=4, max_tokens=W5V.max_tokens), dtype, machine.cores())


@dataclass(frozen=True)
class Timing:
    seconds: float
    tokens: int

    @property
    def rate(self) -> float:
        return self.tokens / self.seconds


def one_engine(work: Work, repeats: int) -> list[dict[str, object]]:
    """Print the table; return its rows."""
    sides = {"bare vLLM": bare, "rlhf_flow engine": engine}
    timings: dict[str, list[Timing]] = {name: [] for name in sides}
    for _ in range(repeats):
        for name, side in sides.items():
            timings[name].append(fresh(side, work))
    return told(f"one engine, {work.threads} threads", "rollouts", work, timings)


def on_ray(work: Work, repeats: int, engines: int) -> list[dict[str, object]]:
    """Print the table; return its rows."""
    title = f"{engines} engines on Ray, 1 thread each"
    return told(title, "rollouts ray", work, fresh(ray_engines, work, repeats, engines))


def told(title: str, workload: str, work: Work, timings: dict[str, list[Timing]]) -> list[dict[str, object]]:
    speeds = [Speed(name, [one.rate for one in each]) for name, each in timings.items()]
    tokens = sorted({one.tokens for each in timings.values() for one in each})
    if len(tokens) > 1:  # rounding that depends on the batch
        print(f"warning: the sides sampled from {tokens[0]} to {tokens[-1]} tokens")
    about = f"{work.prompts} prompts x {work.draw.n} answers, {tokens[0]} tokens"
    print(table(f"rollouts {work.dtype}: {title}, {about}", "tokens", speeds), flush=True)
    return rows(workload, work.dtype, "tokens", speeds)


def fresh(function: Callable[..., Any], *arguments: object) -> Any:  # noqa: ANN401  # what the function returns
    """The result of a function in a new process."""
    with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as process:
        return process.submit(function, *arguments).result()


def timed(call: Callable[[], int]) -> Timing:
    """`call` returns a number of tokens."""
    start = time.perf_counter()
    tokens = call()
    return Timing(time.perf_counter() - start, tokens)


def bare(work: Work) -> Timing:
    from rlhf_flow.engine.vllm.process import settle

    on_gpu = settle(Place(threads=work.threads))
    os.environ["VLLM_ENABLE_V1_MULTIPROCESSING"] = str(int(work.multiprocess))
    import vllm

    llm = vllm.LLM(
        model=str(work.folder),
        dtype=work.dtype,  # type: ignore[arg-type]  # vLLM wants a literal
        max_model_len=LONGEST,
        enforce_eager=not on_gpu,
        enable_chunked_prefill=on_gpu,  # on a CPU it crashes with seeds
        kv_cache_memory_bytes=None if on_gpu else CACHE << 20,  # by default a CPU's takes 0.92 of all memory
        use_tqdm_on_load=False,
    )

    def generate(prompts: Sequence[Prompt]) -> int:
        params = [
            vllm.SamplingParams(
                n=work.draw.n,
                seed=first_seed(SEED, ROUND, prompt, work.draw),
                temperature=1.0,
                max_tokens=work.draw.max_tokens,
                logprobs=0,
            )
            for prompt in prompts
        ]
        asked = [{"prompt_token_ids": list(prompt.tokens)} for prompt in prompts]
        outputs = llm.generate(asked, params, use_tqdm=False)
        return sum(len(one.token_ids) for output in outputs for one in output.outputs)

    warm_up, prompts = work.asked()
    generate(warm_up)
    return timed(lambda: generate(prompts))


def engine(work: Work) -> Timing:
    opened = work.spec.open(work.model, Place(threads=work.threads))

    def stream(prompts: Sequence[Prompt]) -> int:
        return drawn(opened.stream(prompts, work.policy(), work.draw, round=ROUND, seed=SEED))

    warm_up, prompts = work.asked()
    stream(warm_up)
    return timed(lambda: stream(prompts))


def ray_engines(work: Work, repeats: int, engines: int) -> dict[str, list[Timing]]:
    import ray

    from rlhf_flow.cluster.engine_client import RayEngine
    from rlhf_flow.cluster.ray import Ray

    cluster = Ray(engines=engines).open()
    opened = cluster.engine(replace(work.spec, threads=1), work.model)
    assert isinstance(opened, RayEngine)
    cluster.ready()
    actors = [group.ranks[0].handle for group in opened.pool.groups]
    warm_up, prompts = work.asked()

    def by_hand(parts: Sequence[Sequence[Prompt]], policy: Policy) -> int:
        named = {"round": ROUND, "seed": SEED}
        calls = [
            actor.call.remote("generate", (part, policy, work.draw), named)
            for actor, part in zip(actors, parts, strict=True)
        ]
        return drawn(ray.get(calls))

    def empty_caches() -> None:
        """Another policy empties the prefix caches."""
        for policy in (work.policy("another"), work.policy()):
            by_hand([warm_up] * engines, policy)

    sides: dict[str, Callable[[], int]] = {
        "fed by hand": lambda: by_hand([prompts[at::engines] for at in range(engines)], work.policy()),
        "cluster=ray": lambda: drawn(opened.stream(prompts, work.policy(), work.draw, round=ROUND, seed=SEED)),
    }
    timings: dict[str, list[Timing]] = {name: [] for name in sides}
    for _ in range(repeats):
        for name, side in sides.items():
            empty_caches()
            timings[name].append(timed(side))
    cluster.close()
    return timings


def drawn(pieces: Iterable[Rollouts]) -> int:
    """The number of tokens of all answers."""
    return sum(len(one.tokens) for piece in pieces for group in piece.responses for one in group)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--prompts", type=int, default=256, help="prompts of a call (default: %(default)s)")
    parser.add_argument("--answers", type=int, default=4, help="answers per prompt (default: %(default)s)")
    parser.add_argument("--dtype", default="float32", help="float32 or bfloat16 (default: %(default)s)")
    parser.add_argument("--threads", type=int, default=machine.cores(), help="of one engine (default: %(default)s)")
    parser.add_argument("--engines", type=int, default=4, help="engines on Ray; 0: none (default: %(default)s)")
    parser.add_argument("--repeats", type=int, default=3, help="timings of each side (default: %(default)s)")
    parser.add_argument("--multiprocess", action="store_true", help="bare vLLM runs its core in a process of its own")
    asked = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        work = default(Path(folder), asked.dtype)
        work = replace(work, prompts=asked.prompts, draw=replace(work.draw, n=asked.answers), threads=asked.threads)
        work = replace(work, multiprocess=asked.multiprocess)
        one_engine(work, asked.repeats)
        if asked.engines:
            on_ray(work, asked.repeats, asked.engines)


if __name__ == "__main__":
    main()
