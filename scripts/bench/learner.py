"""Tokens per second of one update: answers that share their prompt, beside padded rows and a plain torch loop.

    python scripts/bench/learner.py
    python scripts/bench/learner.py --shapes 4:1 --groups 8 --dtypes float32 --repeats 7

One DPO step on pairs of W5's random Llama, on the CPU with all cores. Every side takes the same pairs. A prompt counts
once per answer on every side, so ratios of tokens are ratios of times. The plain loop pads all rows of a pass, computes
whole logits and calls AdamW, as a trainer without this project would. The sides alternate. Needs an otherwise idle
machine.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import torch
from peer.workload import SEED, W5, WORDS, build
from speeds import Speed, rows, table
from torch.nn import functional

from rlhf_flow.learner.backend_torch import TorchBackend
from rlhf_flow.learner.batching import Example, Limits, Row, pack
from rlhf_flow.learner.packing import pack_groups
from rlhf_flow.learner.policy_model import ResponseLogps, load, ready, share_prompts
from rlhf_flow.learner.step import Pack, take_step
from rlhf_flow.learner.training import TOKENS, Training
from rlhf_flow.objective.dpo import DPO
from rlhf_flow.system import machine

SHAPES = {"1:1": (64, 64), "4:1": (256, 64), "1:4": (32, 128)}  # mean tokens of a prompt and of an answer
ROWS = 64  # answers of an update
PASS = 8  # pairs of a padded pass
BETA, LR = 0.1, 1e-6


def measure(
    *,
    shapes: Sequence[str] = tuple(SHAPES),
    groups: Sequence[int] = (2, 8),
    dtypes: Sequence[str] = ("float32", "bfloat16"),
    repeats: int = 5,
) -> list[dict[str, object]]:
    """Print a table for each case; return their rows."""
    torch.set_num_threads(machine.cores())
    found: list[dict[str, object]] = []
    with tempfile.TemporaryDirectory() as folder:
        model, _ = build(W5, Path(folder))
        for dtype in dtypes:
            sides = _sides(model, dtype)
            for shape in shapes:
                for group in groups:
                    name = f"update {shape}, {group} answers a prompt"
                    found += _alternated(name, dtype, sides, _pairs(*SHAPES[shape], group), repeats)
    return found


def _alternated(
    name: str, dtype: str, sides: dict[str, Callable[[list[Example]], None]], batch: list[Example], repeats: int
) -> list[dict[str, object]]:
    tokens = sum(row.length for example in batch for row in example.rows)
    speeds = {side: Speed(side) for side in sides}
    for repeat in range(repeats + 1):
        for side, step in sides.items():
            began = time.perf_counter()
            step(batch)
            if repeat:  # the first is a warm-up
                speeds[side].rates.append(tokens / (time.perf_counter() - began))
    title = f"{name}, {dtype}: {len(batch)} pairs, {tokens} tokens, {torch.get_num_threads()} threads"
    print(table(title, "tokens", list(speeds.values())), flush=True)
    return rows(name, dtype, "tokens", list(speeds.values()))


def _sides(model: Path, dtype: str) -> dict[str, Callable[[list[Example]], None]]:
    training = Training(precision=dtype, tokens_per_batch=TOKENS["cpu"])
    shared, padded = (_backend(model, training) for _ in range(2))
    assert share_prompts(shared.model)  # type: ignore[arg-type]
    lined = Limits(TOKENS["cpu"], shared=True)

    def of_ours(backend: TorchBackend, limits: Limits, packed: Pack) -> Callable[[list[Example]], None]:
        def step(batch: list[Example]) -> None:
            take_step(backend, DPO(BETA), batch, limits=limits, lr=LR, pack=packed)

        return step

    return {
        "plain torch": _plain(model, dtype),
        "padded rows": of_ours(padded, Limits(1 << 30, PASS), pack),
        "shared prompts": of_ours(shared, lined, pack_groups),
    }


def _backend(model: Path, training: Training) -> TorchBackend:
    lm = ready(load(str(model), revision=None, trust_remote_code=False))
    return TorchBackend(ResponseLogps(lm, chunk=training.chunk), training, device="cpu")


def _plain(model: Path, dtype: str) -> Callable[[list[Example]], None]:
    """DPO in the words of a tutorial."""
    lm = ready(load(str(model), revision=None, trust_remote_code=False))
    optimizer = torch.optim.AdamW(lm.parameters(), lr=LR)

    def logps(batch: list[Example], side: int) -> torch.Tensor:
        packed = pack([example.rows[side] for example in batch])
        tokens = torch.from_numpy(packed.tokens)
        logits = lm(input_ids=tokens[:, :-1], use_cache=False).logits.float()
        every = -functional.cross_entropy(logits.flatten(0, 1), tokens[:, 1:].flatten(), reduction="none")
        places = torch.arange(tokens.shape[1] - 1)
        prompts = torch.tensor([len(example.rows[side].prompt) for example in batch])[:, None]
        ends = torch.tensor([example.rows[side].length for example in batch])[:, None]
        return (every.view(len(batch), -1) * ((places >= prompts - 1) & (places < ends - 1))).sum(-1)

    def step(batch: list[Example]) -> None:
        for start in range(0, len(batch), PASS):
            part = batch[start : start + PASS]
            reference = torch.tensor([[anchor.sum() for anchor in example.anchors["reference"]] for example in part])
            with torch.autocast("cpu", torch.bfloat16, enabled=dtype == "bfloat16"):
                margin = (logps(part, 0) - reference[:, 0]) - (logps(part, 1) - reference[:, 1])
            (-functional.logsigmoid(BETA * margin).sum() / len(batch)).backward()
        torch.nn.utils.clip_grad_norm_(lm.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()

    return step


def _pairs(prompt: int, answer: int, group: int) -> list[Example]:
    """Pairs of neighbours among the answers to a prompt; lengths from half to one and a half of the means."""
    random = np.random.default_rng(SEED)

    def words(mean: int) -> np.ndarray:
        return random.integers(3, WORDS, random.integers(mean // 2, 3 * mean // 2 + 1)).astype(np.int32)

    found = []
    for number in range(ROWS // group):
        asked = words(prompt)
        answers = [Row(asked, words(answer)) for _ in range(group)]
        for at in range(0, group, 2):
            pair = (answers[at], answers[at + 1])
            anchors = tuple(np.full(len(row.tokens), -8.3, np.float32) for row in pair)
            found.append(Example((f"{number}/{at}", f"{number}/{at + 1}"), pair, {"reference": anchors}, 1.0, 1.0))
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shapes", nargs="+", choices=SHAPES, default=list(SHAPES), help="prompt:answer")
    parser.add_argument("--groups", nargs="+", type=int, default=[2, 8], help="answers per prompt")
    parser.add_argument("--dtypes", nargs="+", choices=("float32", "bfloat16"), default=["float32", "bfloat16"])
    parser.add_argument("--repeats", type=int, default=5, help="timings of each side (default: %(default)s)")
    measure(**vars(parser.parse_args()))


if __name__ == "__main__":
    main()
