"""Faults in the files of a checkpoint, found without reading its weights.

`rlhf-flow run` refuses a checkpoint with a fault; `rlhf-flow doctor` lists all of them.
"""

from __future__ import annotations

import json
import shlex
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

HEADER = 8  # bytes: the length of a safetensors header
LFS = b"version https://git-lfs"  # a pointer file in place of the real one
READ_HERE = ("fp8", "fbgemm_fp8", "mxfp4")  # quantisations that `rlhf-flow convert` can undo
FOREIGN = {  # file pattern -> format of another program
    "*.gguf": "GGUF, the format of llama.cpp",
    "params.json": "the original format of the model's authors",
    "*.onnx": "ONNX",
    "tf_model.h5": "TensorFlow's format",
    "flax_model.msgpack": "Flax's format",
}
NO_OUTPUT = (  # ends of the names of classes without next-token logits
    "Model",
    "ForMaskedLM",
    "ForTokenClassification",
    "ForQuestionAnswering",
    "ForPreTraining",
    "ForMultipleChoice",
    "ForNextSentencePrediction",
)


@dataclass(frozen=True)
class Fault:
    says: str
    way_out: str


def faults(folder: Path, *, kind: str, key: str, trust_remote_code: bool = False) -> Iterator[Fault]:
    """The faults of a checkpoint.

    `kind`: its use, one of policy, start of a reward model, classifier, language model. `key`: such as model.path.
    """
    if not (folder / "config.json").is_file():
        yield _no_config(folder, key)
        return
    config = _json(folder / "config.json")
    if isinstance(config, Fault):
        yield config
        return
    own_code = config.get("auto_map") or {}
    if own_code and not trust_remote_code:
        modules = sorted({str(each).partition(".")[0] for each in _values(own_code)})
        yield Fault(
            f"it has its own code ({', '.join(modules)}.py), which is not trusted",
            f"read the code, then {key.removesuffix('path')}trust_remote_code=true",
        )
    yield from _wrong_kind(config, kind)
    yield from _quantised(folder, config, kind)
    if (folder / "adapter_config.json").is_file() and _weights(folder):
        yield Fault(
            "it holds weights and an adapter (adapter_config.json), and transformers would load both",
            f"{merging(folder)}, or move the adapter's files away to start from the weights only",
        )
    yield from _of_weights(folder)


def merging(folder: Path) -> str:
    """The command that converts a checkpoint to one that a run can start from."""
    return f"rlhf-flow convert {shlex.quote(str(folder))} {shlex.quote(f'{folder}-converted')}"


def header(file: Path) -> dict[str, dict[str, Any]]:
    """Name -> dtype, shape and offsets of each tensor of a safetensors file; empty if it has no valid header."""
    try:
        with file.open("rb") as stream:
            length = int.from_bytes(stream.read(HEADER), "little")
            if length > file.stat().st_size:
                return {}
            entries: dict[str, dict[str, Any]] = json.loads(stream.read(length))
    except (ValueError, OSError):
        return {}
    return {name: one for name, one in entries.items() if name != "__metadata__"}


def _no_config(folder: Path, key: str) -> Fault:
    if (folder / "adapter_config.json").is_file():
        return Fault("it holds an adapter (peft) and no model", f"merge it into its base: {merging(folder)}")
    if rounds := sorted(folder.glob("rounds/*/policy/config.json")):
        return Fault("it is a run folder", f"{key}={rounds[-1].parent}, its last policy")
    if any(folder.glob("rounds/*/policy/adapter_config.json")):
        return Fault(
            "it is a run folder, with adapters (peft)", f"merge its best policy into the base: {merging(folder)}"
        )
    if inner := sorted(folder.glob("*/config.json")):
        return Fault("it holds no config.json", f"{key}={inner[0].parent}, the folder that does")
    for pattern, what in FOREIGN.items():
        if any(folder.glob(pattern)):
            return Fault(f"it holds {what} and no config.json", "give the checkpoint in Hugging Face format")
    return Fault("it holds no config.json", "give the folder that save_pretrained() wrote")


def _json(file: Path) -> dict[str, Any] | Fault:
    content = file.read_bytes()
    if content.startswith(LFS):
        return Fault(f"its {file.name} is a pointer of Git LFS", "fetch the files themselves: git lfs pull")
    try:
        parsed = json.loads(content)
    except ValueError as error:
        return Fault(f"its {file.name} is not JSON ({error})", "fetch it again")
    return parsed if isinstance(parsed, dict) else Fault(f"its {file.name} holds no JSON object", "fetch it again")


def _wrong_kind(config: dict[str, Any], kind: str) -> Iterator[Fault]:
    """A checkpoint that names no architecture is checked when it is loaded."""
    names = [str(each) for each in config.get("architectures") or ()]
    causal = any("CausalLM" in name or "LMHead" in name for name in names)
    classifies = any(name.endswith("ForSequenceClassification") for name in names)
    listed = ", ".join(names)
    if kind in ("policy", "language model"):
        needs = "a policy must generate" if kind == "policy" else "a judge that is prompted must generate"
        fix = "give a causal language model" + (
            ", or use scorer=reward_model" if kind != "policy" and classifies else ""
        )
        if config.get("is_encoder_decoder"):
            both = listed or config.get("model_type")
            yield Fault(f"it has an encoder and a decoder ({both}), and {needs} with a decoder only", fix)
        elif classifies:
            yield Fault(f"it is a classifier ({listed}), and {needs}", fix)
        elif names and not causal and any(name.endswith(NO_OUTPUT) for name in names):
            yield Fault(f"it is {listed}, which is no causal language model: {needs}", fix)
    if kind == "start of a reward model" and config.get("is_encoder_decoder"):
        problem = f"it has an encoder and a decoder ({listed}), and a reward model is trained from a decoder"
        yield Fault(problem, "give a causal language model")
    if kind == "classifier" and causal:
        problem = f"it is a language model ({listed}) without a head that scores"
        yield Fault(problem, "give a reward model, or use scorer=preference_model")


def _quantised(folder: Path, config: dict[str, Any], kind: str) -> Iterator[Fault]:
    """Quantised weights cannot be trained. A judge may have them, if the library that reads them is installed."""
    text = config.get("text_config")
    settings = config.get("quantization_config") or (
        text.get("quantization_config") if isinstance(text, dict) else None
    )
    if not isinstance(settings, dict) or kind in ("classifier", "language model"):
        return
    method = str(settings.get("quant_method") or "unnamed method")
    method = "bitsandbytes" if "load_in_4bit" in settings or "load_in_8bit" in settings else method
    if method in READ_HERE:
        fix = f"convert it: {merging(folder)}; or give the checkpoint that it was made from"
    else:
        fix = "give the checkpoint that it was made from, whose weights are bfloat16 or float32"
    yield Fault(f"its weights are quantised ({method}) and cannot be trained", fix)


def _weights(folder: Path) -> list[Path]:
    return [*sorted(folder.glob("model*.safetensors")), *sorted(folder.glob("pytorch_model*.bin"))]


def _of_weights(folder: Path) -> Iterator[Fault]:
    files = sorted(folder.glob("*.safetensors"))
    if not files:
        old = [*sorted(folder.glob("*.bin")), *sorted(folder.glob("*.pt")), *sorted(folder.glob("*.pth"))]
        if old:
            yield Fault(f"it holds no *.safetensors but {old[0].name}", f"convert it: {merging(folder)}")
        else:
            foreign = [what for pattern, what in FOREIGN.items() if any(folder.glob(pattern))]
            but = f" but {foreign[0]}" if foreign else ""
            yield Fault(f"it holds no *.safetensors{but}", "fetch the weights too: save_pretrained() writes them")
    index = folder / "model.safetensors.index.json"
    if index.is_file():
        parsed = _json(index)
        if isinstance(parsed, Fault):
            yield parsed
        else:
            wanted = {str(name) for name in (parsed.get("weight_map") or {}).values()}
            if missing := sorted(wanted - {file.name for file in files}):
                says = f"{len(missing)} of {len(wanted)} weight files are missing, such as {missing[0]}"
                yield Fault(says, "fetch it again")
    for file in files:
        yield from _of_file(file)


def _of_file(file: Path) -> Iterator[Fault]:
    with file.open("rb") as stream:
        if stream.read(len(LFS)) == LFS:
            yield Fault(f"{file.name} is a pointer of Git LFS", "fetch the files themselves: git lfs pull")
            return
        stream.seek(0)
        length = int.from_bytes(stream.read(HEADER), "little")
    tensors, size = header(file), file.stat().st_size
    if not tensors and HEADER + length <= size:
        yield Fault(f"{file.name} is damaged: its header is not valid", "fetch it again")
    elif not tensors or HEADER + length + max(one["data_offsets"][1] for one in tensors.values()) > size:
        yield Fault(f"{file.name} is cut short", "fetch it again, and check the free space on the disk")


def _values(own_code: object) -> Iterator[object]:
    if isinstance(own_code, dict):
        for each in own_code.values():
            yield from each if isinstance(each, list) else [each]
