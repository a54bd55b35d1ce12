"""Loads a whole model with transformers: an adapter is merged into its base, quantised weights are dequantised."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from rlhf_flow.system.hub import is_hub_name
from rlhf_flow.system.optional_deps import require
from rlhf_flow.weights.start_checkpoint import READ_HERE


def load_whole(folder: Path, *, trust_remote_code: bool = False) -> tuple[Any, Any, str]:
    """Model and tokenizer of transformers, and what was done, in words.

    Raises ValueError if the base of an adapter is not there, or if the weights are quantised by a method that cannot be
    undone.
    """
    load = _merged if (folder / "adapter_config.json").is_file() else _loaded
    return load(folder, {"trust_remote_code": trust_remote_code})


def _merged(start: Path, trust: dict[str, bool]) -> tuple[Any, Any, str]:
    """An adapter, merged in float32 and rounded to the base's own type."""
    require("peft", part="an adapter", extras=("lora",), instead="a checkpoint without one")
    import torch
    from peft import PeftModel
    from transformers import AutoConfig, AutoModelForCausalLM

    named = json.loads((start / "adapter_config.json").read_text()).get("base_model_name_or_path") or ""
    base = start if (start / "config.json").is_file() else Path(named)
    if not (base / "config.json").is_file() and not is_hub_name(named):
        raise ValueError(
            f"{start}: its adapter is for {named or 'a base that it does not name'}, which is not there. Fix: "
            "write the folder of the base into base_model_name_or_path of adapter_config.json."
        )
    config = AutoConfig.from_pretrained(base, **trust)
    stored = config.dtype or torch.float32
    with _without_adapter(base) as folder:
        plain = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32, **trust)
    merged = PeftModel.from_pretrained(plain, str(start)).merge_and_unload()
    return merged.to(stored), _tokenizer(start, base, trust), f"the adapter, merged into {base}"


@contextmanager
def _without_adapter(folder: Path) -> Iterator[Path]:
    """The folder, in which transformers finds weights alone: an adapter beside them it would load as well."""
    if not (folder / "adapter_config.json").is_file():
        yield folder
        return
    with tempfile.TemporaryDirectory() as beside:
        for file in folder.iterdir():
            if not file.name.startswith("adapter_"):
                (Path(beside) / file.name).symlink_to(file.resolve())
        yield Path(beside)


def _loaded(start: Path, trust: dict[str, bool]) -> tuple[Any, Any, str]:
    """A checkpoint as transformers loads it, dequantised if it is quantised."""
    import torch
    from transformers import AutoConfig

    config = AutoConfig.from_pretrained(start, **trust)
    settings = config.to_dict().get("quantization_config")
    if settings is None:
        model = _kind(config).from_pretrained(start, dtype="auto", **trust)
        return model, _tokenizer(start, start, trust), "the same weights, as safetensors"
    method = str(settings.get("quant_method"))
    if method not in READ_HERE:
        raise ValueError(f"{start} is quantised by {method}. Fix: convert the checkpoint that it was made from.")
    from transformers.quantizers import AutoQuantizationConfig

    plain = AutoQuantizationConfig.from_dict({**settings, "dequantize": True})
    model = _kind(config).from_pretrained(start, dtype=torch.bfloat16, quantization_config=plain, **trust)
    model.config.quantization_config = None
    del model.config.quantization_config
    return model, _tokenizer(start, start, trust), f"the weights in bfloat16, as {method} stands for them"


def _kind(config: Any) -> Any:  # noqa: ANN401  # classes of transformers
    from transformers import AutoModelForCausalLM, AutoModelForSequenceClassification

    judges = any(name.endswith("ForSequenceClassification") for name in config.architectures or ())
    return AutoModelForSequenceClassification if judges else AutoModelForCausalLM


def _tokenizer(start: Path, base: Path, trust: dict[str, bool]) -> Any:  # noqa: ANN401
    from transformers import AutoTokenizer

    own = any((start / name).is_file() for name in ("tokenizer.json", "tokenizer_config.json"))
    return AutoTokenizer.from_pretrained(start if own else base, **trust)
