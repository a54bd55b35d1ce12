"""The estimate of a learner's memory, against what torch allocates in an update on packed lines."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pytest
from transformers import LlamaConfig, LlamaForCausalLM

from rlhf_flow.capacity.learner_memory import learner_memory
from rlhf_flow.capacity.model_shape import shape_of
from rlhf_flow.learner.backend_torch import TorchBackend
from rlhf_flow.learner.batching import Example, Limits, Row
from rlhf_flow.learner.packing import pack_groups
from rlhf_flow.learner.policy_model import ResponseLogps, ready, share_prompts
from rlhf_flow.learner.step import take_step
from rlhf_flow.objective.dpo import DPO
from tests.support.allocations import peak
from tests.support.configured import WORK, configured, training

pytestmark = pytest.mark.slow


@dataclass(frozen=True)
class Case:
    width: int = 128
    layers: int = 4
    vocabulary: int = 512
    heads: int = 4
    keys: int = 4
    batch: int = 4
    prompt: int = 32
    answer: int = 32
    limit: int = 1024
    recompute: str = "off"
    precision: str = "float32"


CASES = {
    "several passes": Case(batch=16, limit=400),
    "a large vocabulary": Case(width=64, layers=2, vocabulary=16384),
    "long prompts, and fewer keys than queries": Case(width=256, keys=1, prompt=128),
    "recomputed layers": Case(layers=12, recompute="full", answer=96),
    "products kept": Case(layers=8, recompute="selective", answer=96),
    "bfloat16": Case(width=256, answer=128, precision="bfloat16"),
}


@pytest.mark.parametrize("name", CASES)
def test_an_update_takes_what_is_planned(name: str, tmp_path: Path) -> None:
    case = CASES[name]
    sizes = {"hidden_size": case.width, "intermediate_size": 3 * case.width, "vocab_size": case.vocabulary}
    heads = {"num_attention_heads": case.heads, "num_key_value_heads": case.keys}
    config = LlamaConfig(**sizes, **heads, num_hidden_layers=case.layers, tie_word_embeddings=False)
    lm = LlamaForCausalLM(config)
    lm.save_pretrained(tmp_path)
    made = training(
        configured(),
        batch=case.batch,
        tokens_per_batch=case.limit,
        gradient_checkpointing=case.recompute,
        precision=case.precision,
    )
    model = ResponseLogps(ready(lm, case.recompute), chunk=1024)
    assert share_prompts(model)
    backend = TorchBackend(model, made.learner.training, device="cpu")
    random = np.random.default_rng(0)

    def step() -> None:
        take_step(backend, DPO(), examples, limits=Limits(case.limit, shared=True), lr=1e-3, pack=pack_groups)

    examples = [pair(case, p, random) for p in range(case.batch)]
    step()  # allocates the moments
    static = sum(4 * p.numel() for p in lm.parameters()) * 3
    work = replace(WORK, prompts=case.batch, longest_prompt=case.prompt, longest_answer=case.answer)
    phases = learner_memory(made, shape_of(str(tmp_path)), work, on_gpu=False).phases
    expected = max(phase.bytes for phase in phases if phase.name.startswith("learn"))
    assert static + peak(step) == pytest.approx(expected, rel=0.15)


def pair(case: Case, p: int, random: np.random.Generator) -> Example:
    prompt = random.integers(3, case.vocabulary, case.prompt).astype(np.int32)
    rows = tuple(Row(prompt, random.integers(3, case.vocabulary, case.answer).astype(np.int32)) for _ in range(2))
    anchors = {"reference": tuple(np.full(case.answer, -6.0, np.float32) for _ in rows)}
    return Example((f"{p}a", f"{p}b"), rows, anchors, preference=1.0, weight=1.0)
