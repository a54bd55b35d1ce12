"""A causal language model whose forward pass returns the log-probs of response tokens.

Imported only when a learner opens, so it may import torch at its top.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils.checkpoint import CheckpointPolicy, create_selective_checkpoint_contexts
from transformers import PreTrainedConfig, PreTrainedModel

from rlhf_flow.learner.attention import INNER, NAME, Line
from rlhf_flow.learner.batching import Group, Packed, Row, pack
from rlhf_flow.learner.logits import Reader, token_logps
from rlhf_flow.learner.meta_init import without_weights
from rlhf_flow.learner.output_layer import OutputLayer
from rlhf_flow.learner.packing import pack_groups
from rlhf_flow.learner.sequence import SequenceGroup
from rlhf_flow.weights.soft_caps import keep_soft_caps

if TYPE_CHECKING:
    from transformers import AutoModelForCausalLM, AutoModelForSequenceClassification

# Two prompts with answers of uneven length, which `share_prompts` compares.
CHECKED = [
    Row(np.arange(prompt, dtype=np.int32) % 7 + 1, np.arange(answer, dtype=np.int32) % 5 + 1)
    for prompt, answer in ((5, 4), (3, 6), (5, 2), (3, 1), (5, 9))
]
TOLERANCE = 1e-3  # nats, between our log-probs and those of the model's own logits in float32


class ResponseLogps(nn.Module):
    """Log-probs of given tokens, in float32, without a [R, T, V] tensor of logits."""

    def __init__(self, lm: PreTrainedModel, *, chunk: int) -> None:
        super().__init__()
        self.lm = lm
        self.output = OutputLayer(lm, chunk=chunk)

    def forward(
        self,
        tokens: Tensor,
        at: Tensor,
        targets: Tensor,
        read: Reader = token_logps,
        groups: Sequence[Group] | None = None,
        sequence: SequenceGroup | None = None,
    ) -> Tensor:
        """Tokens [1, L] or [R, L], at [M] into tokens.flatten(), targets [M] -> log-probs float32 [M].

        With another `read`, its output [M, ...]. `groups`: of a line, and `sequence`: the ranks that share it. A
        rectangle needs no attention mask: its padding is on the right, which causal attention does not see.
        """
        if groups is None:
            hidden = self.lm.base_model(input_ids=tokens, use_cache=False).last_hidden_state  # [R, L, H]
            return self.output(hidden.flatten(0, 1).index_select(0, at), targets, read)  # [M, ...]
        line = Line(groups, tokens.device, sequence)
        part = slice(None) if sequence is None else sequence.part(tokens.shape[1])
        inputs = {"input_ids": tokens[:, part], "position_ids": line.positions[None, part]}
        hidden = self.lm.base_model(**inputs, use_cache=False, line=line).last_hidden_state[0]  # [L, H]
        if sequence is None:
            return self.output(hidden.index_select(0, at), targets, read)
        places = ((at >= part.start) & (at < part.stop)).nonzero()[:, 0]
        own = self.output(hidden.index_select(0, at[places] - part.start), targets[places], read)
        return sequence.gathered(own, places, len(at))


def load(path: str, *, revision: str | None, trust_remote_code: bool, quantize: str | None = None) -> PreTrainedModel:
    """The model in float32, without dropout; `quantize`: with linear layers in 4 bits of this kind, else in bfloat16.

    Raises ValueError if `path` is no causal LM.
    """
    from transformers import AutoModelForCausalLM, BitsAndBytesConfig

    source = {"revision": revision, "trust_remote_code": trust_remote_code}
    held: dict[str, Any] = {"dtype": torch.float32}
    if quantize is not None:
        low = torch.bfloat16
        bits = {"bnb_4bit_quant_type": quantize, "bnb_4bit_use_double_quant": True, "bnb_4bit_compute_dtype": low}
        held = {"dtype": low, "quantization_config": BitsAndBytesConfig(load_in_4bit=True, **bits)}
    with _explained(path):
        config = quiet_config(path, **source)
        lm: PreTrainedModel = AutoModelForCausalLM.from_pretrained(path, config=config, **held, **source)
    return lm


def build(path: str, *, revision: str | None, trust_remote_code: bool) -> tuple[PreTrainedModel, PreTrainedModel]:
    """The model without weights, and a miniature of it with random ones: of each kind of layer it has one.

    Raises ValueError if `path` is no causal LM.
    """
    from transformers import AutoModelForCausalLM, GenerationConfig

    with _explained(path):
        config = quiet_config(path, revision=revision, trust_remote_code=trust_remote_code)
        lm, small = built(AutoModelForCausalLM, config, trust_remote_code=trust_remote_code)
    with suppress(OSError):  # many checkpoints have none
        lm.generation_config = GenerationConfig.from_pretrained(path, revision=revision)
    return lm, ready(small)


def built(
    kind: type[AutoModelForCausalLM | AutoModelForSequenceClassification],
    config: PreTrainedConfig,
    *,
    trust_remote_code: bool,
) -> tuple[PreTrainedModel, PreTrainedModel]:
    """The model of a configuration without weights, and its miniature."""
    made: dict[str, Any] = {"dtype": torch.float32, "trust_remote_code": trust_remote_code}
    with torch.random.fork_rng(devices=[]):
        small: PreTrainedModel = kind.from_config(_smaller(config), **made)
        _randomise(small)
    with without_weights():
        lm: PreTrainedModel = kind.from_config(config, **made)
    return lm, small


@contextmanager
def _explained(path: str) -> Iterator[None]:
    try:
        yield
    except (OSError, ValueError) as error:
        raise ValueError(f"model.path={path!r} is not the checkpoint of a causal LM: {error}") from error


def _smaller(config: PreTrainedConfig) -> PreTrainedConfig:
    """The configuration of the first layers, up to one of each kind."""
    small = copy.deepcopy(config)
    text = small.get_text_config()
    kinds: Sequence[str] = text.to_dict().get("layer_types") or ["the only one"]
    text.num_hidden_layers = 1 + max(kinds.index(kind) for kind in kinds)
    if len(kinds) > 1:
        text.layer_types = list(kinds[: text.num_hidden_layers])
    return small


@torch.no_grad()
def _randomise(lm: PreTrainedModel) -> None:
    """Weights with which every layer changes its input: those of a new model hardly do."""
    torch.manual_seed(0)
    for parameter in lm.parameters():
        if parameter.dim() > 1:
            parameter.normal_(std=parameter.shape[-1] ** -0.5)


def quiet_config(path: str, **source: object) -> PreTrainedConfig:
    """The configuration of a checkpoint, without dropout."""
    from transformers import AutoConfig

    config: PreTrainedConfig = AutoConfig.from_pretrained(path, **source)
    for key, value in _dropouts(config.to_dict()).items():
        setattr(config, key, type(value)(0))
    return config


def ready(lm: PreTrainedModel, recompute: str = "off") -> PreTrainedModel:
    """Prepare the model for training. `recompute`: of its layers, as `Training.recomputes`."""
    lm.config.use_cache = False
    keep_soft_caps(lm)
    if recompute == "off":
        lm.eval()
        return lm
    settings: dict[str, Any] = {"use_reentrant": False, "preserve_rng_state": False}
    if recompute == "selective":
        settings["context_fn"] = partial(create_selective_checkpoint_contexts, _kept)
    lm.gradient_checkpointing_enable(gradient_checkpointing_kwargs=settings)
    lm.train()  # gradient checkpointing is off in eval mode; there is no dropout
    return lm


def _kept(context: object, operation: Any, *inputs: Any, **named: Any) -> CheckpointPolicy:  # noqa: ANN401  # of torch
    """Keep what is expensive to compute again: matrix products and attention."""
    name = operation.name()
    expensive = any(part in name for part in ("::mm", "::addmm", "::bmm", "::linear", "attention", "varlen_attn"))
    return CheckpointPolicy.MUST_SAVE if expensive else CheckpointPolicy.PREFER_RECOMPUTE


@torch.no_grad()
def verify(model: ResponseLogps) -> None:
    """Compare our log-probs with the model's own logits.

    Raises ValueError if they differ: the output is more than hidden states times a matrix, dropout is left, or the
    model is not causal.
    """
    tokens = torch.arange(8).remainder(model.output.weight.shape[0])[None]  # [1, 8]
    ours = model(tokens, torch.arange(6), tokens[0, 1:7])  # [6]; the model's own pass lacks the last token
    logits = model.lm(input_ids=tokens[:, :7]).logits[0, :6]
    theirs = logits.float().log_softmax(-1).gather(-1, tokens[0, 1:7, None])[:, 0]
    worst = (ours - theirs).abs().max().item()
    if not worst <= TOLERANCE:
        raise ValueError(
            f"model.path: our log-probs of {type(model.lm).__name__} differ from the model's own by {worst:.2g} nats. "
            "Its output is more than its last hidden states times a matrix, or it is not causal: not supported."
        )


@torch.no_grad()
def share_prompts(model: ResponseLogps) -> bool:
    """Let the model read the answers to a prompt in one line with it. False if that changes its log-probs."""
    lm, padded = model.lm, pack(CHECKED)
    kinds = set(lm.config.get_text_config().to_dict().get("layer_types") or ())
    if lm.config._attn_implementation != INNER or not kinds <= {"full_attention", "sliding_attention"}:
        return _padded(lm)
    expected = _of_packed(model, padded)
    lm.set_attn_implementation(NAME)
    try:
        same = torch.allclose(_of_packed(model, pack_groups(CHECKED)), expected, rtol=0, atol=TOLERANCE)
    except (TypeError, KeyError, ValueError, RuntimeError):  # it does not pass on what `attend` needs
        same = False
    if same:
        return True
    lm.set_attn_implementation(INNER)
    return _padded(lm)


@contextmanager
def reading_rectangles(lm: PreTrainedModel) -> Iterator[None]:
    """In this block a model that shares prompts reads padded rows, and nothing is compiled for them."""
    lm.set_attn_implementation(INNER)
    with torch.compiler.set_stance("force_eager"):
        yield
    lm.set_attn_implementation(NAME)


def _padded(lm: PreTrainedModel) -> bool:
    print(f"note: {type(lm).__name__} trains on padded rows: its attention cannot share prompts.", flush=True)
    return False


def _of_packed(model: ResponseLogps, packed: Packed) -> Tensor:
    arrays = (packed.tokens, packed.at, packed.targets)
    found: Tensor = model(*map(torch.from_numpy, arrays), groups=packed.groups)
    return found


def _dropouts(keys: dict[str, object]) -> dict[str, float]:
    return {
        key: value
        for key, value in keys.items()
        if ("dropout" in key or "pdrop" in key or "layerdrop" in key) and isinstance(value, float) and value > 0
    }
