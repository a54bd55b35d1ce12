"""A published policy, or reward model, as an ordinary Hugging Face checkpoint."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator, Sequence
from pathlib import Path

from transformers import AutoConfig, AutoTokenizer, GenerationConfig, PreTrainedModel

from rlhf_flow.specs import Model
from rlhf_flow.weights.buckets import Bucket, Index

# Beside config, tokenizer and weights: what reads pictures and sound in front of a language model, for servers.
PROCESSORS = ("processor_config.json", "preprocessor_config.json")


def write_checkpoint(
    folder: Path, model: Model, lm: PreTrainedModel, groups: Sequence[Index], buckets: Iterator[Bucket]
) -> None:
    """A file for each bucket, which holds one of the `groups`. Config, tokenizer and code are those of `model.path`.

    The generation config names the special tokens and nothing else, so that nobody inherits a sampling default.
    """
    folder.mkdir(parents=True, exist_ok=True)
    source = {"revision": model.revision, "trust_remote_code": model.trust_remote_code}
    _write_weights(folder, groups, buckets)
    config = AutoConfig.from_pretrained(model.path, **source)
    config.dtype = model.dtype
    config.architectures = [type(lm).__name__]
    config.num_labels = lm.config.num_labels
    config.get_text_config().pad_token_id = lm.config.get_text_config().pad_token_id
    vars(config).pop("quantization_config", None)  # the weights are not quantised any more
    config.save_pretrained(folder)
    AutoTokenizer.from_pretrained(model.path, **source).save_pretrained(folder)
    _copy_code(model, folder)
    if not lm.can_generate():
        return
    inherited = lm.generation_config
    special = {key: inherited.to_dict().get(key) for key in ("bos_token_id", "eos_token_id", "pad_token_id")}
    GenerationConfig(**special).save_pretrained(folder)


def _copy_code(model: Model, folder: Path) -> None:
    """The modules that `auto_map` names, with whatever they import, and the settings of processors."""
    start = Path(model.path)
    code = start.rglob("*.py") if model.trust_remote_code else ()
    for path in [*code, *(start / name for name in PROCESSORS)]:
        if path.is_file():
            copy = folder / path.relative_to(start)
            copy.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(path, copy)


def _write_weights(folder: Path, groups: Sequence[Index], buckets: Iterator[Bucket]) -> None:
    """One file without an index where one bucket suffices, else as many shards and an index of what is where."""
    count = len(groups)
    names = [f"model-{number:05d}-of-{count:05d}.safetensors" for number in range(1, count + 1)]
    if count == 1:
        names = ["model.safetensors"]
    for name, bucket in zip(names, buckets, strict=True):
        bucket.write(folder / name)
    if count > 1:
        where = {entry.name: name for name, group in zip(names, groups, strict=True) for entry in group}
        total = sum(entry.size for group in groups for entry in group)
        index = {"metadata": {"total_size": total}, "weight_map": where}
        (folder / "model.safetensors.index.json").write_text(json.dumps(index, indent=2) + "\n")
