"""Write a policy or reward model as a Hugging Face checkpoint."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator, Sequence
from pathlib import Path

from transformers import AutoConfig, AutoTokenizer, GenerationConfig, PreTrainedModel

from rlhf_flow.specs import Model
from rlhf_flow.weights.buckets import Bucket, Index

# Processors of images and audio, which servers of multimodal models need.
PROCESSORS = ("processor_config.json", "preprocessor_config.json")


def write_checkpoint(
    folder: Path, model: Model, lm: PreTrainedModel, groups: Sequence[Index], buckets: Iterator[Bucket]
) -> None:
    """One weight file per bucket, with the index in `groups`. Config, tokenizer and code come from `model.path`.

    The generation config holds special tokens only, no sampling defaults.
    """
    folder.mkdir(parents=True, exist_ok=True)
    source = {"revision": model.revision, "trust_remote_code": model.trust_remote_code}
    _write_weights(folder, groups, buckets)
    config = AutoConfig.from_pretrained(model.path, **source)
    config.dtype = model.dtype
    config.architectures = [type(lm).__name__]
    config.num_labels = lm.config.num_labels
    config.get_text_config().pad_token_id = lm.config.get_text_config().pad_token_id
    vars(config).pop("quantization_config", None)  # published weights are not quantised
    config.save_pretrained(folder)
    AutoTokenizer.from_pretrained(model.path, **source).save_pretrained(folder)
    _copy_code(model, folder)
    if not lm.can_generate():
        return
    inherited = lm.generation_config
    special = {key: inherited.to_dict().get(key) for key in ("bos_token_id", "eos_token_id", "pad_token_id")}
    GenerationConfig(**special).save_pretrained(folder)


def _copy_code(model: Model, folder: Path) -> None:
    """The modules of `auto_map` and what they import, and the processors' settings."""
    start = Path(model.path)
    code = start.rglob("*.py") if model.trust_remote_code else ()
    for path in [*code, *(start / name for name in PROCESSORS)]:
        if path.is_file():
            copy = folder / path.relative_to(start)
            copy.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(path, copy)


def _write_weights(folder: Path, groups: Sequence[Index], buckets: Iterator[Bucket]) -> None:
    """A single file, or shards and an index."""
    count = len(groups)
    names = [f"model-{number:05d}-of-{count:05d}.safetensors" for number in range(1, count + 1)]
    if count == 1:
        names = ["model.safetensors"]
    for name, bucket in zip(names, buckets, strict=True):
        bucket.write(folder / name)
    if count > 1:
        weight_map = {entry.name: name for name, group in zip(names, groups, strict=True) for entry in group}
        total = sum(entry.size for group in groups for entry in group)
        index = {"metadata": {"total_size": total}, "weight_map": weight_map}
        (folder / "model.safetensors.index.json").write_text(json.dumps(index, indent=2) + "\n")
