"""Compare the throughput of the sample stage with a bare `vllm.LLM.generate`.

    python scripts/bench/rollout_throughput.py [--model FOLDER --prompts FILE.jsonl]

Both use one engine and the same prompts, seeds, threads, log-probs and cache settings. The script checks that they
sample the same tokens. The rollout runs the sampler and writes a parquet file, as a task of a round does. The bare call
ends with vLLM's own objects. They alternate (A B A B ...), and the prefix cache is emptied before each. Two bare calls
are timed: one returns only tokens and log-probs; the other is vLLM's default and also detokenizes, as the rollout does.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from rlhf_flow.engine.requests import first_seed
from rlhf_flow.engine.vllm.engine import VLLMEngine
from rlhf_flow.engine.vllm.spec import VLLM
from rlhf_flow.prompts.jsonl import Jsonl
from rlhf_flow.sampler.policy import PolicySampler
from rlhf_flow.sandbox.world import locate
from rlhf_flow.specs import Model, Place
from rlhf_flow.storage import parquet as rows
from rlhf_flow.storage.store import FolderStageWriter
from rlhf_flow.types import Policy, Prompt, SamplingParams
from rlhf_flow.weights.source import Checkpoint

ROUND, SEED = 1, 1
Tokens = list[list[int]]


def rollout(
    engine: VLLMEngine, prompts: Sequence[Prompt], policy: Policy, draw: SamplingParams, folder: Path
) -> Tokens:
    """What a round does with a part of its prompts."""
    rollouts = PolicySampler([draw]).sample(engine, prompts, {"policy": policy}, round=ROUND, seed=SEED)
    FolderStageWriter(folder).table("responses/00000", rows.from_rollouts(rollouts))
    return [response.tokens.tolist() for group in rollouts.responses for response in group]


def bare(engine: VLLMEngine, prompts: Sequence[Prompt], draw: SamplingParams, *, text: bool) -> Tokens:
    """vLLM alone."""
    from vllm import SamplingParams

    params = [
        SamplingParams(
            n=draw.n,
            seed=first_seed(SEED, ROUND, prompt, draw),
            temperature=draw.temperature,
            max_tokens=draw.max_tokens,
            logprobs=0,
            detokenize=text,
        )
        for prompt in prompts
    ]
    outputs = engine.llm.generate([{"prompt_token_ids": list(p.tokens)} for p in prompts], params, use_tqdm=False)
    return [list(one.token_ids) for output in outputs for one in output.outputs]


def timed(engine: VLLMEngine, call: Callable[[], Tokens]) -> tuple[float, Tokens]:
    """Tokens per second, and the tokens."""
    assert engine.llm.reset_prefix_cache()
    start = time.perf_counter()
    tokens = call()
    return sum(map(len, tokens)) / (time.perf_counter() - start), tokens


def main() -> None:
    world = locate()
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", type=Path, default=world.policy, help="checkpoint (default: the sandbox world's)")
    parser.add_argument("--prompts", type=Path, default=world.prompts, help="JSONL with a column `prompt`")
    parser.add_argument("--batch", type=int, default=64, help="prompts per call (default: %(default)s)")
    parser.add_argument("--n", type=int, default=4, help="answers per prompt (default: %(default)s)")
    parser.add_argument("--max-tokens", type=int, default=64, help="limit per answer (default: %(default)s)")
    parser.add_argument("--dtype", default="float32", help="float32 or bfloat16 (default: %(default)s)")
    parser.add_argument("--threads", type=int, default=1, help="threads of vLLM (default: %(default)s)")
    parser.add_argument("--repeats", type=int, default=7, help="timings of each (default: %(default)s)")
    options = parser.parse_args()
    if not options.model.is_dir():
        parser.error(f"no checkpoint at {options.model}; `python -m rlhf_flow.sandbox` builds the sandbox world")

    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(options.model)
    prompts = Jsonl(path=str(options.prompts), batch=options.batch).open(tokenizer, SEED).batch(1)
    draw = SamplingParams(n=options.n, max_tokens=options.max_tokens)
    policy = Policy("start", 0, "as opened", Checkpoint(options.model))
    engine = VLLM().open(Model(str(options.model), dtype=options.dtype), Place(threads=options.threads))

    with tempfile.TemporaryDirectory() as folder:
        kinds: dict[str, Callable[[], Tokens]] = {
            "rollout": lambda: rollout(engine, prompts, policy, draw, Path(folder)),
            "bare": lambda: bare(engine, prompts, draw, text=False),
            "bare with text": lambda: bare(engine, prompts, draw, text=True),
        }
        tokens = [timed(engine, call)[1] for call in kinds.values()]  # warm-up
        assert options.dtype != "float32" or tokens[0] == tokens[1] == tokens[2], "they drew different tokens"
        speeds: dict[str, list[float]] = {name: [] for name in kinds}
        for _ in range(options.repeats):
            for name, call in kinds.items():
                speeds[name].append(timed(engine, call)[0])

    print(f"{len(prompts)} prompts x {draw.n} answers, {sum(map(len, tokens[0]))} tokens, {options.repeats} repeats")
    for name, found in speeds.items():
        print(f"{name:>15}: {statistics.median(found):8.0f} tokens/s (from {min(found):.0f} to {max(found):.0f})")
    for name in ("bare", "bare with text"):
        paired = [ours / theirs for ours, theirs in zip(speeds["rollout"], speeds[name], strict=True)]
        print(f"rollout / {name}: {statistics.median(paired):.3f} (from {min(paired):.3f} to {max(paired):.3f})")
    engine.close()


if __name__ == "__main__":
    main()
