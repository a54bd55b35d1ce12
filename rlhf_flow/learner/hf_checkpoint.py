"""Write a policy or reward model as a Hugging Face checkpoint."""

from __future__ import annotations

import json
import shutil
from collections.abc import Sequence
from pathlib import Path

from transformers import AutoConfig, AutoTokenizer, GenerationConfig, PreTrainedModel

from rlhf_flow.specs import Model
from rlhf_flow.weights.buckets import Index, Read, fill
from rlhf_flow.weights.safetensors_file import write

# Processors of images and audio, which servers of multimodal models need.
PROCESSORS = ("processor_config.json", "preprocessor_config.json")


def write_weights(folder: Path, groups: Sequence[Index], read: Read, *, rank: int, ranks: int) -> dict[str, str]:
    """Write one weight file per group. Rank k writes the files k, k + ranks, ... Returns the sha256 of these files.

    Rank 0 also writes the index, if there are several files.
    """
    folder.mkdir(parents=True, exist_ok=True)
    count = len(groups)
    names = [f"model-{number:05d}-of-{count:05d}.safetensors" for number in range(1, count + 1)]
    if count == 1:
        names = ["model.safetensors"]
    if count > 1 and rank == 0:
        weight_map = {entry.name: name for name, group in zip(names, groups, strict=True) for entry in group}
        total = sum(entry.size for group in groups for entry in group)
        index = {"metadata": {"total_size": total}, "weight_map": weight_map}
        (folder / "model.safetensors.index.json").write_text(json.dumps(index, indent=2) + "\n")
    return {
        name: write(folder / name, bucket.index, [bucket.data], metadata={"format": "pt"})
        for name, bucket in zip(names[rank::ranks], fill(groups[rank::ranks], read), strict=True)
    }


def write_settings(folder: Path, model: Model, lm: PreTrainedModel, dtype: str) -> None:
    """Write everything but the weights, which have `dtype`. Config, tokenizer and code come from `model.path`.

    The generation config holds special tokens only, no sampling defaults.
    """
    source = {"revision": model.revision, "trust_remote_code": model.trust_remote_code}
    config = AutoConfig.from_pretrained(model.path, **source)
    config.dtype = dtype
    config.architectures = [type(lm).__name__]
    config.num_labels = lm.config.num_labels
    config.get_text_config().pad_token_id = lm.config.get_text_config().pad_token_id
    vars(config).pop("quantization_config", None)  # published weights are not quantised
    config.save_pretrained(folder)
    save_tokenizer(folder, model)
    _copy_code(model, folder)
    if not lm.can_generate():
        return
    inherited = lm.generation_config
    special = {key: inherited.to_dict().get(key) for key in ("bos_token_id", "eos_token_id", "pad_token_id")}
    GenerationConfig(**special).save_pretrained(folder)


def save_tokenizer(folder: Path, model: Model) -> None:
    """The tokenizer of `model.path`, with the chat template of `model.chat_template.file` if that is set."""
    source = {"revision": model.revision, "trust_remote_code": model.trust_remote_code}
    tokenizer = AutoTokenizer.from_pretrained(model.path, **source)
    model.chat_template.put_into(tokenizer)
    tokenizer.save_pretrained(folder)


def _copy_code(model: Model, folder: Path) -> None:
    """The modules of `auto_map` and what they import, and the processors' settings."""
    start = Path(model.path)
    code = start.rglob("*.py") if model.trust_remote_code else ()
    for path in [*code, *(start / name for name in PROCESSORS)]:
        if path.is_file():
            copy = folder / path.relative_to(start)
            copy.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(path, copy)
