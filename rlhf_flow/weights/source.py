"""Weights of a policy, wherever they are stored."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from contextlib import ExitStack
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from rlhf_flow.types import Policy
from rlhf_flow.weights.buckets import Index, index_of

if TYPE_CHECKING:
    from torch import Tensor
    from transformers import AutoModelForCausalLM, AutoModelForSequenceClassification, PreTrainedModel


class Weights(Protocol):
    """A reference to weights: a value that can be stored, compared and sent to another process."""

    def index(self) -> Index:
        """Names, dtypes and shapes of the Hugging Face state dict."""
        ...

    def stream(self) -> Iterator[tuple[str, Tensor]]:
        """The tensors on the CPU, sorted by name, loaded one by one if possible."""
        ...

    def load(self) -> dict[str, Tensor]:
        """The whole state dict."""
        ...


@dataclass(frozen=True)
class Checkpoint:
    """A Hugging Face checkpoint on a disk that every worker can read."""

    path: Path
    trust_remote_code: bool = False

    def index(self) -> Index:
        return index_of(self._skeleton().state_dict())

    def stream(self) -> Iterator[tuple[str, Tensor]]:
        """Read tensor by tensor if the files use the model's names; otherwise load the whole model.

        Tied tensors, which a checkpoint stores once, come under each name.
        """
        from safetensors import safe_open

        skeleton = self._skeleton().state_dict(keep_vars=True)
        files: dict[str, Path] = {}
        for path in sorted(self.path.glob("*.safetensors")):
            with safe_open(path, framework="pt") as file:
                files |= dict.fromkeys(file.keys(), path)
        stored = {id(skeleton[name]): name for name in sorted(files.keys() & skeleton.keys(), reverse=True)}
        if any(id(tensor) not in stored for tensor in skeleton.values()):
            loaded = self._loaded().state_dict()
            yield from ((name, loaded[name].detach()) for name in sorted(loaded))
            return
        with ExitStack() as stack:
            opened = {path: stack.enter_context(safe_open(path, framework="pt")) for path in set(files.values())}
            for entry in index_of(skeleton):
                name = entry.name if entry.name in files else stored[id(skeleton[entry.name])]
                yield entry.name, opened[files[name]].get_tensor(name).to(entry.torch_dtype)

    def load(self) -> dict[str, Tensor]:
        """The full state dict: of a sequence classifier if the checkpoint is one, else of a causal LM."""
        return {name: tensor.clone() for name, tensor in self.stream()}

    def _loaded(self) -> PreTrainedModel:
        model: PreTrainedModel = self._kind().from_pretrained(self.path, dtype="auto", **self._source())
        return model

    def _skeleton(self) -> PreTrainedModel:
        """The model on the meta device."""
        return _skeleton(self, (self.path / "config.json").stat().st_mtime_ns)

    def _kind(self) -> type[AutoModelForCausalLM | AutoModelForSequenceClassification]:
        from transformers import AutoConfig, AutoModelForCausalLM, AutoModelForSequenceClassification

        classes = AutoConfig.from_pretrained(self.path, **self._source()).architectures or ()
        classifies = any(name.endswith("ForSequenceClassification") for name in classes)
        return AutoModelForSequenceClassification if classifies else AutoModelForCausalLM

    def _source(self) -> dict[str, bool]:
        return {"local_files_only": True, "trust_remote_code": self.trust_remote_code}


@lru_cache(maxsize=4)  # a reference is read every round
def _skeleton(checkpoint: Checkpoint, changed: int) -> PreTrainedModel:
    """`changed`: when its configuration was written."""
    import torch
    from transformers import AutoConfig

    config = AutoConfig.from_pretrained(checkpoint.path, **checkpoint._source())
    with torch.device("meta"):
        model: PreTrainedModel = checkpoint._kind().from_config(config, trust_remote_code=checkpoint.trust_remote_code)
    return model


@dataclass(frozen=True)
class InMemoryWeights:
    """Weights in the memory of this process."""

    state: Mapping[str, Tensor] = field(repr=False, compare=False)

    def index(self) -> Index:
        return index_of(self.state)

    def stream(self) -> Iterator[tuple[str, Tensor]]:
        return ((name, self.state[name]) for name in sorted(self.state))

    def load(self) -> dict[str, Tensor]:
        return dict(self.state)


@dataclass(frozen=True)
class File:
    """The tensors of one safetensors file."""

    path: Path

    def index(self) -> Index:
        return index_of(self.load())

    def stream(self) -> Iterator[tuple[str, Tensor]]:
        return InMemoryWeights(self.load()).stream()

    def load(self) -> dict[str, Tensor]:
        from safetensors.torch import load_file

        return load_file(self.path)


# -- adapters ----------------------------------------------------------------------------------------------------------

PREFIX, A, B = "base_model.model.", ".lora_A.weight", ".lora_B.weight"  # the names of peft
TENSORS, SETTINGS = "adapter_model.safetensors", "adapter_config.json"


@dataclass(frozen=True)
class Adapter:
    """A checkpoint with a LoRA adapter: W + (alpha / rank) B A. Hu et al. 2021, arXiv:2106.09685, sec. 4.1.

    Tensors have peft's names: base_model.model.<layer>.lora_A.weight [rank, in] and
    base_model.model.<layer>.lora_B.weight [out, rank].
    """

    base: Checkpoint
    base_sha256: str
    rank: int
    alpha: float
    tensors: Weights  # of the adapter only

    @property
    def scale(self) -> float:
        return self.alpha / self.rank

    def index(self) -> Index:
        return self.base.index()

    def stream(self) -> Iterator[tuple[str, Tensor]]:
        """The merged weights, computed in float32 from the base on disk."""
        terms = self.terms()
        for name, weight in self.base.stream():
            if name.removesuffix(".weight") in terms:
                down, up = terms[name.removesuffix(".weight")]
                yield name, (weight.float() + self.scale * (up.float() @ down.float())).to(weight.dtype)
            else:
                yield name, weight

    def load(self) -> dict[str, Tensor]:
        return {name: tensor.clone() for name, tensor in self.stream()}

    def terms(self) -> dict[str, tuple[Tensor, Tensor]]:
        """(A [rank, in], B [out, rank]) by layer name in the base."""
        tensors = self.tensors.load()
        layers = [name.removesuffix(A) for name in sorted(tensors) if name.endswith(A)]
        return {layer.removeprefix(PREFIX): (tensors[layer + A], tensors[layer + B]) for layer in layers}


def write_adapter(folder: Path, adapter: Adapter) -> None:
    """Write a folder for `peft.PeftModel.from_pretrained(base, folder)`; the metadata holds the base's hash."""
    from safetensors.torch import save_file

    folder.mkdir(parents=True, exist_ok=True)
    tensors = adapter.tensors.load()
    # One entry only: safetensors writes several in an order that changes from run to run.
    save_file(tensors, folder / TENSORS, metadata={"base_sha256": adapter.base_sha256})
    layers = {name.removeprefix(PREFIX).removesuffix(A) for name in tensors if name.endswith(A)}
    settings = {
        "peft_type": "LORA",
        "task_type": "CAUSAL_LM",
        "base_model_name_or_path": str(adapter.base.path),
        "inference_mode": True,
        "r": adapter.rank,
        "lora_alpha": adapter.alpha,
        "lora_dropout": 0.0,
        "bias": "none",
        "target_modules": sorted({layer.rpartition(".")[2] for layer in layers}),
    }
    (folder / SETTINGS).write_text(json.dumps(settings, indent=2) + "\n")


def published(folder: Path, start: Policy, *, trust_remote_code: bool = False) -> Checkpoint | Adapter:
    """The policy in a round's folder: a checkpoint, or an adapter of the run's start.

    Raises ValueError if the adapter has another base.
    """
    if not (folder / SETTINGS).exists():
        return Checkpoint(folder, trust_remote_code)
    from safetensors import safe_open

    with safe_open(folder / TENSORS, framework="pt") as file:
        own = (file.metadata() or {}).get("base_sha256")
    if own != start.sha256 or not isinstance(start.weights, Checkpoint):
        raise ValueError(
            f"{folder} holds an adapter for the weights {str(own)[:12]}…, but the run starts from "
            f"{start.sha256[:12]}…. Fix: set model.path to the folder that the adapter was trained on."
        )
    settings = json.loads((folder / SETTINGS).read_text())
    return Adapter(start.weights, start.sha256, settings["r"], settings["lora_alpha"], File(folder / TENSORS))
