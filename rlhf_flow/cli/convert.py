"""Write a checkpoint that a run can start from: `rlhf-flow convert FROM TO`.

Weights in .bin become safetensors, an adapter is merged into its base, and weights quantised to fp8 or mxfp4 become
bfloat16. What is written is what transformers loads, so nothing is lost but the quantisation's file size.
"""

from __future__ import annotations

import json
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from rlhf_flow.system.optional_deps import require
from rlhf_flow.weights.start_checkpoint import READ_HERE


def convert(source: str, target: str, *, trust_remote_code: bool = False) -> str:
    """What was done, in a sentence. Raises ValueError if there is nothing that can be converted."""
    start, written = Path(source), Path(target)
    if not start.is_dir():
        raise ValueError(f"{source} is not a folder. Fix: give the folder of a checkpoint, or hf download it first.")
    if written.exists() and any(written.iterdir()):
        raise ValueError(f"{target} is not empty. Fix: name a folder that does not exist yet.")
    adapter = (start / "adapter_config.json").is_file()
    model, tokenizer, done = (_merged if adapter else _loaded)(start, {"trust_remote_code": trust_remote_code})
    model.save_pretrained(written)
    tokenizer.save_pretrained(written)
    return f"{target}: {done}"


def _merged(start: Path, trust: dict[str, bool]) -> tuple[Any, Any, str]:
    """An adapter, merged in float32 and rounded to the base's own type."""
    require("peft", part="an adapter", extras=("lora",), instead="a checkpoint without one")
    import torch
    from peft import PeftModel
    from transformers import AutoConfig, AutoModelForCausalLM

    named = json.loads((start / "adapter_config.json").read_text()).get("base_model_name_or_path") or ""
    base = start if (start / "config.json").is_file() else Path(named)
    if not (base / "config.json").is_file() and (base.is_absolute() or named.count("/") != 1):
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


def main(arguments: list[str]) -> int:
    """Raises ValueError for other arguments than two folders, and for a checkpoint that cannot be converted."""
    folders = [argument for argument in arguments if not argument.startswith("--")]
    if len(folders) != 2 or set(arguments) - {*folders, "--trust-remote-code"}:
        raise ValueError("convert takes two folders. Try rlhf-flow convert FROM TO, or --help.")
    try:
        print(convert(*folders, trust_remote_code="--trust-remote-code" in arguments))
    except (ValueError, OSError) as error:
        raise ValueError(" ".join(str(error).split())) from error
    return 0
