"""Compare the throughput of a served scorer (`scorer=remote`) with the same scorer in this process.

    python scripts/bench/serve_throughput.py [--path FOLDER] [--piece N] [--vllm URL]

Both use one reward model with the same answers and number of threads. The script checks that the scores agree: bit for
bit if a call is one request, and up to rounding otherwise, because a different batch may round differently. The server
runs in its own process on this machine, and the two alternate (A B A B ...). With --vllm, a third scorer is
`scorer=pooled`, on a server that is already running:

    vllm serve FOLDER --runner pooling --dtype float32
"""

from __future__ import annotations

import argparse
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np

from rlhf_flow.prompts.jsonl import Jsonl
from rlhf_flow.protocols import Scorer
from rlhf_flow.sandbox.world import locate
from rlhf_flow.scorer.models.reward_model import RewardModel
from rlhf_flow.scorer.models.vllm_pooling import Pooled
from rlhf_flow.scorer.remote.remote import Remote
from rlhf_flow.specs import Place
from rlhf_flow.types import Response, Rollouts, SamplingParams

ROUNDING = 1e-5  # difference of a score between batches of different lengths


@contextmanager
def served(path: Path, threads: int) -> Iterator[str]:
    """Serve the reward model inside the block; yields the address."""
    command = [
        sys.executable,
        "-m",
        "rlhf_flow",
        "serve",
        f"scorer.path={path}",
        f"threads={threads}",
        "port=0",
        "token=none",
    ]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as server:
        try:
            assert server.stdout is not None
            line = server.stdout.readline()
            assert line.startswith("serving "), "the server exited; its output is above"
            yield line.split()[-1]
        finally:
            server.terminate()


def answers(path: Path, prompts: Path, *, batch: int, n: int, length: int) -> Rollouts:
    """Answers of `length` random tokens each to `batch` prompts."""
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(path)
    asked = Jsonl(path=str(prompts), batch=batch).open(tokenizer, 0).batch(1)
    drawn = np.random.default_rng(0).integers(len(tokenizer), size=(batch, n, length))
    responses = tuple(
        tuple(
            Response(
                id=f"1/policy/{k}/{prompt.id}",
                tokens=tokens.astype(np.int32),
                text=str(tokenizer.decode(tokens, skip_special_tokens=True)),
                logps=None,
                truncated=True,
                draw=SamplingParams(n=n),
                seed=0,
                policy="",
            )
            for k, tokens in enumerate(group)
        )
        for prompt, group in zip(asked, drawn, strict=True)
    )
    return Rollouts(round=1, prompts=asked, responses=responses)


def timed(scorer: Scorer, rollouts: Rollouts) -> tuple[float, np.ndarray]:
    """Answers per second, and their utilities."""
    start = time.perf_counter()
    utility = scorer.score(rollouts).utility
    return utility.size / (time.perf_counter() - start), utility


def main() -> None:
    world = locate()
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--path", type=Path, default=world.reward_model, help="reward model (default: the sandbox's)")
    parser.add_argument("--prompts", type=Path, default=world.prompts, help="JSONL with a column `prompt`")
    parser.add_argument("--batch", type=int, default=64, help="prompts per call (default: %(default)s)")
    parser.add_argument("--n", type=int, default=4, help="answers per prompt (default: %(default)s)")
    parser.add_argument("--length", type=int, default=48, help="tokens per answer (default: %(default)s)")
    parser.add_argument("--piece", type=int, default=64, help="prompts per request (default: %(default)s)")
    parser.add_argument("--threads", type=int, default=1, help="threads of the model (default: %(default)s)")
    parser.add_argument("--repeats", type=int, default=7, help="timings of each (default: %(default)s)")
    parser.add_argument("--vllm", metavar="URL", help="a vLLM server of the same reward model")
    options = parser.parse_args()
    if not options.path.is_dir():
        parser.error(f"no checkpoint at {options.path}; `python -m rlhf_flow.sandbox` builds the sandbox world")

    rollouts = answers(options.path, options.prompts, batch=options.batch, n=options.n, length=options.length)
    with served(options.path, options.threads) as url:
        scorers: dict[str, Scorer] = {
            "in process": RewardModel(path=str(options.path)).open(Place(threads=options.threads)),
            "served": Remote(urls=[url], request_size=options.piece).open(Place()),
        }
        if options.vllm:
            scorers["pooled"] = Pooled(str(options.path), [options.vllm], request_size=options.piece * options.n).open(
                Place()
            )
        itself, *others = (timed(scorer, rollouts)[1] for scorer in scorers.values())  # warm-up
        for name, utility in zip(list(scorers)[1:], others, strict=True):
            apart = float(np.abs(itself - utility).max())
            exact = name == "served" and options.piece >= options.batch
            assert apart <= (0 if exact else ROUNDING), f"{name} gave different scores, by {apart}"
        speeds: dict[str, list[float]] = {name: [] for name in scorers}
        for _ in range(options.repeats):
            for name, scorer in scorers.items():
                speeds[name].append(timed(scorer, rollouts)[0])

    print(f"{options.batch} prompts x {options.n} answers, {options.piece} a request, {options.repeats} repeats")
    for name, found in speeds.items():
        print(f"{name:>10}: {statistics.median(found):8.0f} answers/s (from {min(found):.0f} to {max(found):.0f})")
    for name in list(speeds)[1:]:
        paired = [one / other for one, other in zip(speeds[name], speeds["in process"], strict=True)]
        print(f"{name} / in process: {statistics.median(paired):.3f} (from {min(paired):.3f} to {max(paired):.3f})")
    for scorer in scorers.values():
        scorer.close()


if __name__ == "__main__":
    main()
