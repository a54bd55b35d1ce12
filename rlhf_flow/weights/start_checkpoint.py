"""What is wrong with the files of a checkpoint, found before anything loads it. No weight is read.

`rlhf-flow run` refuses a checkpoint with a fault, and `rlhf-flow doctor` lists all its faults.
"""

from __future__ import annotations

import json
import shlex
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

HEADER = 8  # bytes that say how long the header of a safetensors file is
LFS = b"version https://git-lfs"  # a file that git left where the real one should be
READ_HERE = ("fp8", "fbgemm_fp8", "mxfp4")  # quantised weights that `rlhf-flow convert` turns into plain ones
FOREIGN = {  # files of other programs -> what they are
    "*.gguf": "GGUF, the format of llama.cpp",
    "params.json": "the original format of its authors",
    "*.onnx": "ONNX",
    "tf_model.h5": "TensorFlow's format",
    "flax_model.msgpack": "Flax's format",
}


@dataclass(frozen=True)
class Fault:
    says: str
    way_out: str


def faults(folder: Path, *, kind: str, key: str, trust_remote_code: bool = False) -> Iterator[Fault]:
    """Of a checkpoint. `kind` is what it is to be: policy, start of a reward model, classifier or language model.

    `key` is the configuration's, as model.path.
    """
    if not (folder / "config.json").is_file():
        yield _no_config(folder, key)
        return
    about = _json(folder / "config.json")
    if isinstance(about, Fault):
        yield about
        return
    own_code = about.get("auto_map") or {}
    if own_code and not trust_remote_code:
        yield Fault(
            f"its code comes with it ({', '.join(sorted({str(each).partition('.')[0] for each in _values(own_code)}))}"
            ".py), and is not trusted",
            f"read the code, then {key.removesuffix('path')}trust_remote_code=true",
        )
    yield from _of_another_kind(about, kind)
    yield from _quantised(folder, about, kind)
    if (folder / "adapter_config.json").is_file() and _weights(folder):
        yield Fault(
            "it holds both weights and an adapter (adapter_config.json), and transformers would load both",
            f"{merging(folder)}, or move the adapter's files away to start from the weights alone",
        )
    yield from _of_weights(folder)


def merging(folder: Path) -> str:
    """The command that writes a checkpoint that a run can start from."""
    return f"rlhf-flow convert {shlex.quote(str(folder))} {shlex.quote(f'{folder}-converted')}"


def header(file: Path) -> dict[str, dict[str, Any]]:
    """Name -> dtype, shape and place of each tensor of a safetensors file; empty if the file does not say."""
    try:
        with file.open("rb") as stream:
            length = int.from_bytes(stream.read(HEADER), "little")
            if length > file.stat().st_size:
                return {}
            told: dict[str, dict[str, Any]] = json.loads(stream.read(length))
    except (ValueError, OSError):
        return {}
    return {name: one for name, one in told.items() if name != "__metadata__"}


def _no_config(folder: Path, key: str) -> Fault:
    if (folder / "adapter_config.json").is_file():
        return Fault("it holds an adapter (peft), and no model", f"merge it into its base: {merging(folder)}")
    if rounds := sorted(folder.glob("rounds/*/policy/config.json")):
        return Fault("it is the folder of a run", f"{key}={rounds[-1].parent}, its last policy")
    if inner := sorted(folder.glob("*/config.json")):
        return Fault("it holds no config.json", f"{key}={inner[0].parent}, the folder that does")
    for pattern, what in FOREIGN.items():
        if any(folder.glob(pattern)):
            return Fault(f"it holds {what}, and no config.json", "give the checkpoint in Hugging Face format")
    return Fault("it holds no config.json", "give the folder that save_pretrained() wrote")


def _json(file: Path) -> dict[str, Any] | Fault:
    content = file.read_bytes()
    if content.startswith(LFS):
        return Fault(f"its {file.name} is a pointer of Git LFS", "fetch the files themselves: git lfs pull")
    try:
        about = json.loads(content)
    except ValueError as error:
        return Fault(f"its {file.name} is not JSON ({error})", "fetch it again")
    return about if isinstance(about, dict) else Fault(f"its {file.name} holds no JSON object", "fetch it again")


def _of_another_kind(about: dict[str, Any], kind: str) -> Iterator[Fault]:
    """A checkpoint that names no architecture is taken at its word when it is loaded."""
    names = [str(each) for each in about.get("architectures") or ()]
    causal = any("CausalLM" in name or "LMHead" in name for name in names)
    classifies = any(name.endswith("ForSequenceClassification") for name in names)
    told = ", ".join(names)
    if kind in ("policy", "language model"):
        wants = "a policy generates" if kind == "policy" else "what is asked must generate"
        if about.get("is_encoder_decoder"):
            yield Fault(
                f"it has an encoder and a decoder ({told or about.get('model_type')}), and {wants} by a decoder alone",
                "give a causal language model",
            )
        elif classifies:
            yield Fault(
                f"it is a classifier ({told}), and {wants}",
                "give a causal language model"
                if kind == "policy"
                else "give a causal language model, or use scorer=reward_model",
            )
        elif names and not causal and any(_without_output(name) for name in names):
            yield Fault(f"it is {told}, which is no causal language model: {wants}", "give a causal language model")
    if kind == "start of a reward model" and about.get("is_encoder_decoder"):
        yield Fault(
            f"it has an encoder and a decoder ({told}), and a reward model is trained from a decoder",
            "give a causal language model",
        )
    if kind == "classifier" and causal:
        yield Fault(
            f"it is a language model ({told}) without a head that scores",
            "give a reward model, or use scorer=preference_model",
        )


def _without_output(name: str) -> bool:
    return name.endswith(
        (
            "Model",
            "ForMaskedLM",
            "ForTokenClassification",
            "ForQuestionAnswering",
            "ForPreTraining",
            "ForMultipleChoice",
            "ForNextSentencePrediction",
        )
    )


def _quantised(folder: Path, about: dict[str, Any], kind: str) -> Iterator[Fault]:
    """Quantised weights cannot be trained; a judge may have them, if what reads them is installed."""
    text = about.get("text_config")
    settings = about.get("quantization_config") or (text.get("quantization_config") if isinstance(text, dict) else None)
    if not isinstance(settings, dict) or kind in ("classifier", "language model"):
        return
    method = str(settings.get("quant_method") or "in a way that it does not name")
    method = "bitsandbytes" if "load_in_4bit" in settings or "load_in_8bit" in settings else method
    if method in READ_HERE:
        way_out = f"turn it into plain weights: {merging(folder)}; or give the checkpoint that it was made from"
    else:
        way_out = "give the checkpoint that it was made from, whose weights are bfloat16 or float32"
    yield Fault(f"its weights are quantised ({method}), and those cannot be trained", way_out)


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
        about = _json(index)
        if isinstance(about, Fault):
            yield about
        else:
            wanted = {str(name) for name in (about.get("weight_map") or {}).values()}
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
        yield Fault(f"{file.name} is damaged: it does not say what it holds", "fetch it again")
    elif not tensors or HEADER + length + max(one["data_offsets"][1] for one in tensors.values()) > size:
        yield Fault(f"{file.name} is cut short", "fetch it again, and look at the room on the disk")


def _values(own_code: object) -> Iterator[object]:
    if isinstance(own_code, dict):
        for each in own_code.values():
            yield from each if isinstance(each, list) else [each]
