"""Checks whether learner and engine support the architecture of the model. Reads no weights."""

from __future__ import annotations

from importlib.util import find_spec
from typing import TYPE_CHECKING

from rlhf_flow.specs import Model
from rlhf_flow.system.errors import reason

if TYPE_CHECKING:
    from transformers import PreTrainedConfig, PreTrainedModel

# Layers without any state but keys and values, by their names in `layer_types`.
ATTENTION = {"full_attention", "sliding_attention", "chunked_attention"}
TRY = "Fix: a decoder of attention layers, such as Llama, Mistral, Mixtral, Qwen3, Gemma 3, Phi-3 or GPT-2."
# By model_type: vLLM 0.32 loads no adapters for these, or computes wrong results with them (GPT-BigCode).
UNADAPTED = ("bloom", "falcon", "gpt_bigcode", "stablelm")
EXPERTS = ("num_experts", "num_local_experts", "n_routed_experts")  # keys of config.json


def check(model: Model, *, engine: str, lora_rank: int = 0) -> None:
    """Raise ValueError if `model`, a local folder, cannot be trained or sampled from.

    engine: its registered name. lora_rank: the highest rank of the adapters that it loads.
    """
    about = _config(model)
    lm = _skeleton(model, about)
    name = f"model.path={model.path}: {type(lm).__name__}"
    if kept := _states(lm):
        raise ValueError(
            f"{name} has layers with a recurrent state ({kept}). Engines and learners pad batches, and padding would "
            f"change that state. {TRY}"
        )
    if engine == "vllm" and about.get_text_config() is not about and find_spec("torchvision") is None:
        raise ValueError(
            f"{name} also reads images, for which vLLM needs torchvision. "
            "Fix: engine=huggingface, or install the torchvision that belongs to this torch."
        )
    if engine == "vllm" and lora_rank:
        _check_adapters(about, f"engine.lora_rank={lora_rank}: {type(lm).__name__}")


def _check_adapters(about: PreTrainedConfig, name: str) -> None:
    remedy = "Fix: engine.lora_rank=0, which sends the sum of weights and adapter."
    if about.model_type in UNADAPTED:
        raise ValueError(f"{name} is not supported with adapters by vLLM. {remedy}")
    if _has_experts(about) and not has_gpu():
        raise ValueError(f"{name} has experts, whose adapters vLLM supports on GPUs only. {remedy}")


def _has_experts(about: PreTrainedConfig) -> bool:
    keys = about.get_text_config().to_dict()
    return any(isinstance(keys.get(name), int) and keys[name] > 1 for name in EXPERTS)


def has_gpu() -> bool:
    """Whether torch finds a GPU on this machine."""
    import torch

    return torch.cuda.is_available()


def _config(model: Model) -> PreTrainedConfig:
    from transformers import AutoConfig

    try:
        config: PreTrainedConfig = AutoConfig.from_pretrained(model.path, trust_remote_code=model.trust_remote_code)
    except (OSError, ValueError, KeyError) as error:
        raise ValueError(
            f"model.path={model.path}: its config.json cannot be read: {reason(error)}. "
            "Fix: fetch the checkpoint again."
        ) from error
    return config


def _skeleton(model: Model, about: PreTrainedConfig) -> PreTrainedModel:
    """The model on the meta device. Raises ValueError if it is not a causal language model."""
    import torch
    from transformers import AutoModelForCausalLM
    from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING

    classes = ", ".join(about.architectures or [about.model_type])
    own = "AutoModelForCausalLM" in (about.to_dict().get("auto_map") or {})
    if about.is_encoder_decoder or not (own or type(about) in MODEL_FOR_CAUSAL_LM_MAPPING):
        raise ValueError(f"model.path={model.path}: {classes} is not a causal language model. {TRY}")
    with torch.device("meta"):
        lm: PreTrainedModel = AutoModelForCausalLM.from_config(about, trust_remote_code=model.trust_remote_code)
    if not isinstance(lm.get_output_embeddings(), torch.nn.Linear):
        raise ValueError(f"model.path={model.path}: {classes} has no linear output layer. {TRY}")
    return lm


def _states(lm: PreTrainedModel) -> str:
    """The kinds of layers with a recurrent state; empty if there are none."""
    kinds = set(lm.config.get_text_config().to_dict().get("layer_types") or ()) - ATTENTION
    if lm._is_stateful:
        kinds = kinds or {lm.config.model_type}
    return ", ".join(sorted(kinds))
