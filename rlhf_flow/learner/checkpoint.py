"""A published policy, or reward model, as an ordinary Hugging Face checkpoint."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from huggingface_hub import save_torch_state_dict
from torch import Tensor
from transformers import AutoConfig, AutoTokenizer, GenerationConfig, PreTrainedModel

from rlhf_flow.specs import Model


def write_checkpoint(folder: Path, model: Model, lm: PreTrainedModel, weights: Mapping[str, Tensor]) -> None:
    """Config and tokenizer are those of `model.path`. A tied tensor is stored once, under its first name.

    The generation config names the special tokens and nothing else, so that nobody inherits a sampling default.
    """
    folder.mkdir(parents=True, exist_ok=True)
    source = {"revision": model.revision, "trust_remote_code": model.trust_remote_code}
    save_torch_state_dict(dict(weights), folder)
    config = AutoConfig.from_pretrained(model.path, **source)
    config.dtype = model.dtype
    config.architectures = [type(lm).__name__]
    config.num_labels = lm.config.num_labels
    config.get_text_config().pad_token_id = lm.config.get_text_config().pad_token_id
    config.save_pretrained(folder)
    AutoTokenizer.from_pretrained(model.path, **source).save_pretrained(folder)
    if not lm.can_generate():
        return
    inherited = lm.generation_config
    special = {key: inherited.to_dict().get(key) for key in ("bos_token_id", "eos_token_id", "pad_token_id")}
    GenerationConfig(**special).save_pretrained(folder)
