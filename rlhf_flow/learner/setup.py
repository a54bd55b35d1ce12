"""Setup of a rank: deterministic torch, and the model."""

from __future__ import annotations

import os
from typing import Any

import torch
from transformers import PreTrainedModel
from transformers.utils.logging import disable_progress_bar

from rlhf_flow.learner import policy_model as policies
from rlhf_flow.learner import reward_model as rewards
from rlhf_flow.learner.lora import LoRA
from rlhf_flow.learner.lora_model import add_adapter
from rlhf_flow.learner.meta_init import layers
from rlhf_flow.learner.policy_model import ResponseLogps
from rlhf_flow.learner.readout import PolicyReadout, Readout, RewardReadout, tail_of
from rlhf_flow.learner.reward_head import Head
from rlhf_flow.learner.reward_model import RewardHeadModel
from rlhf_flow.learner.sequence import check_heads
from rlhf_flow.learner.trainable import FullModel, Trainable
from rlhf_flow.learner.training import Training
from rlhf_flow.specs import Model, Place
from rlhf_flow.tokenization.end_tokens import end_of_answer

LENGTHS = 4  # of lines, for each of which a compiled layer is compiled
GRAPHS = 64  # of a layer, at most: with and without gradients, and lines beyond the usual


def compile_layers(lm: PreTrainedModel) -> None:
    """Compile each decoder layer at its first call."""
    torch._dynamo.config.recompile_limit = GRAPHS
    for layer in layers(lm):
        layer.compile(dynamic=False)


def be_deterministic(place: Place) -> None:
    """Reproducible training: a fixed number of threads, and deterministic kernels on a GPU."""
    torch.set_num_threads(place.threads)
    if place.device != "cpu":
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
        torch.use_deterministic_algorithms(True, warn_only=True)
        # It would fill every large buffer of DeepSpeed with NaN.
        torch.utils.deterministic.fill_uninitialized_memory = False  # type: ignore[attr-defined]  # torch has no stub


def open_model(
    model: Model,
    training: Training,
    head: Head,
    lora: LoRA,
    *,
    sharded: bool = False,
    sequence_ranks: int = 1,
    compile: bool = False,
) -> tuple[ResponseLogps | RewardHeadModel, Readout, Trainable]:
    """The model in float32 on the CPU, its readout, and its trainable part: a policy, or with a head a reward model.

    If the backend shards it, it comes without weights: `Learner.start` and `Trainable.fill` load slices. Raises
    ValueError if the model cannot be trained.
    """
    disable_progress_bar()  # a run shows its own
    if model.dtype not in ("float32", "bfloat16"):
        raise ValueError(f"model.dtype must be float32 or bfloat16, got {model.dtype!r}")
    if head.outputs:
        return _open_reward_model(model, training, head, empty=sharded)
    lm, checked = _open_policy(model, lora, empty=sharded and lora.quantize is None)
    policies.ready(lm, training.recomputes(lm.num_parameters()))
    policies.verify(logps := ResponseLogps(checked, chunk=training.chunk))
    if shares := policies.share_prompts(logps):
        lm.set_attn_implementation(policies.NAME)
    multiple = sequence_ranks
    if sequence_ranks > 1:
        check_heads(lm.config, sequence_ranks)
        if not shares:
            raise ValueError(
                f"learner.sequence_ranks must be 1 for {type(lm).__name__}, whose rows are padded, got "
                f"{sequence_ranks}. Fix: learner.sequence_ranks=1."
            )
    if compile and shares and training.tokens_per_batch is not None:  # padded rows have too many shapes
        multiple *= max(1, training.tokens_per_batch // LENGTHS // sequence_ranks)
        compile_layers(lm)
    reading = PolicyReadout(shares, multiple)
    trained = add_adapter(lm, lora, model) if lora.rank else FullModel(model, lm, reading)
    return ResponseLogps(lm, chunk=training.chunk), reading, trained


def _open_policy(model: Model, lora: LoRA, *, empty: bool) -> tuple[PreTrainedModel, PreTrainedModel]:
    """The policy, and the model to check in its place: itself in float32, or a miniature."""
    path, revision, trust = model.path, model.revision, model.trust_remote_code
    if empty:
        return policies.build(path, revision=revision, trust_remote_code=trust)
    lm = policies.load(path, revision=revision, trust_remote_code=trust, quantize=lora.quantize)
    if lora.quantize:  # four bits are too coarse to be compared
        return lm, policies.build(path, revision=revision, trust_remote_code=trust)[1]
    return lm, lm


def _open_reward_model(
    model: Model, training: Training, head: Head, *, empty: bool
) -> tuple[RewardHeadModel, Readout, Trainable]:
    tokenizer = model.tokenizer()
    tail = tail_of(tokenizer)
    source: Any = {"revision": model.revision, "trust_remote_code": model.trust_remote_code}
    if empty:
        lm, checked = rewards.build_classifier(model.path, head, **source)
    else:
        lm = checked = rewards.load_classifier(model.path, head, **source)
    end = tail[-1] if tail else end_of_answer(tokenizer, chat=True)
    for text in (lm.config.get_text_config(), checked.config.get_text_config()):
        if text.pad_token_id == end:  # else a classifier would take the end token for padding
            text.pad_token_id = None
    policies.ready(lm, training.recomputes(lm.num_parameters()))
    rewards.verify(RewardHeadModel(checked))
    reading = RewardReadout(head, tail)
    return RewardHeadModel(lm), reading, FullModel(model, lm, reading)
