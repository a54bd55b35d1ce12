"""Memory of the log-probs and the loss of one update, beside TRL's, for vocabularies of 49k and 128k tokens.

    PYTHONPATH=.:scripts/bench python scripts/bench/update_memory.py

The model has one narrow layer, so that nearly all memory is that of the output layer. Both sides compute the same eight
pairs and their gradients: TRL by its own `_forward`, in one batch as its trainer does; ours with the defaults of a CPU.
The figure is the most bytes that torch's allocator has out at once, gradients of the weights included.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import torch
from peer import theirs
from transformers import LlamaConfig, LlamaForCausalLM

from rlhf_flow.learner.backend_torch import TorchBackend
from rlhf_flow.learner.batching import Example, Limits, Row
from rlhf_flow.learner.packing import pack_groups
from rlhf_flow.learner.policy_model import ResponseLogps, ready, share_prompts
from rlhf_flow.learner.step import take_step
from rlhf_flow.learner.training import Training
from rlhf_flow.objective.dpo import DPO
from tests.support.allocations import peak

PAIRS, PROMPT, ANSWER = 8, 128, 128
GIB = 1 << 30


def model_of(vocabulary: int) -> LlamaForCausalLM:
    torch.manual_seed(0)
    sizes = {"hidden_size": 64, "intermediate_size": 64, "num_attention_heads": 1, "num_hidden_layers": 1}
    return LlamaForCausalLM(LlamaConfig(**sizes, vocab_size=vocabulary))


def ours(vocabulary: int) -> int:
    training = Training(batch=PAIRS).on("cpu")
    model = ResponseLogps(ready(model_of(vocabulary)), chunk=training.chunk)
    assert share_prompts(model)
    assert training.tokens_per_batch is not None
    backend, limits = TorchBackend(model, training, device="cpu"), Limits(training.tokens_per_batch, shared=True)
    examples = [_pair(p, vocabulary) for p in range(PAIRS)]

    def step() -> None:
        take_step(backend, DPO(), examples, limits=limits, lr=1e-6, pack=pack_groups)

    step()  # the optimizer's moments stay
    return peak(step)


def _pair(p: int, vocabulary: int) -> Example:
    random = np.random.default_rng(p)
    prompt = random.integers(3, vocabulary, PROMPT).astype(np.int32)
    rows = tuple(Row(prompt, random.integers(3, vocabulary, ANSWER).astype(np.int32)) for _ in range(2))
    anchors = {"reference": tuple(np.full(ANSWER, -10.0, np.float32) for _ in rows)}
    return Example((f"{p}a", f"{p}b"), rows, anchors, preference=1.0, weight=1.0)


def trl(vocabulary: int) -> int:
    from trl.experimental.online_dpo import OnlineDPOTrainer

    lm, trainer = model_of(vocabulary), SimpleNamespace(max_length=1024)
    prompts, answers = (torch.randint(3, vocabulary, (2 * PAIRS, n)) for n in (PROMPT, ANSWER))
    masks = [torch.ones_like(each) for each in (prompts, answers)]
    forward: Callable[..., torch.Tensor] = OnlineDPOTrainer._forward

    def step() -> None:
        logps = forward(trainer, lm, prompts, masks[0], answers, masks[1]).sum(1)  # [2 P]
        chosen, rejected = logps.split(PAIRS)
        (-torch.nn.functional.logsigmoid(0.1 * (chosen - rejected))).mean().backward()
        lm.zero_grad()

    return peak(step)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--vocabularies", type=int, nargs="+", default=[49152, 128256])
    parser.add_argument("--peers", type=Path, default=Path("build/peers"))
    parser.add_argument("--json", type=Path)
    asked = parser.parse_args()
    sys.path.append(str(theirs.installed(asked.peers)))
    rows = []
    for vocabulary in asked.vocabularies:
        found = {"vocabulary": vocabulary, "TRL": trl(vocabulary), "rlhf_flow": ours(vocabulary)}
        rows.append(found | {"ratio": found["rlhf_flow"] / found["TRL"]})
        print(
            f"{vocabulary:7,} tokens: TRL {theirs.TRL} {found['TRL'] / GIB:.2f} GiB, rlhf_flow "
            f"{found['rlhf_flow'] / GIB:.2f} GiB: 1/{found['TRL'] / found['rlhf_flow']:.1f}",
            flush=True,
        )
    if asked.json:
        asked.json.write_text(json.dumps(rows, indent=1) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
