"""Training and publishing of a LoRA adapter; all policies and the reference share the frozen base.

Hu et al. 2021, arXiv:2106.09685. Imported only when a learner opens, so it may import torch at its top.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from rlhf_flow.learner.backend import Part
from rlhf_flow.learner.hf_checkpoint import save_tokenizer
from rlhf_flow.learner.lora import LoRA
from rlhf_flow.learner.meta_init import with_stand_ins
from rlhf_flow.specs import Model
from rlhf_flow.types import Policy
from rlhf_flow.weights.buckets import Index, torch_dtype
from rlhf_flow.weights.fingerprint import adapter_fingerprint, checkpoint_fingerprint
from rlhf_flow.weights.source import PREFIX, Adapter, Checkpoint, InMemoryWeights, Weights, write_adapter

NAME = "default"  # peft's name of the adapter
WRAPPED = ".base_layer."  # in peft's names of the weights that have an adapter


@dataclass(frozen=True)
class LoRAModel:
    """Implements `Trainable` for the adapter that `add_adapter` has put into the model."""

    model: Model
    lm: PreTrainedModel
    lora: LoRA
    base: str
    fresh: Mapping[str, Tensor]  # the untrained adapter, with which the policy equals the base

    @property
    def layout(self) -> None:
        return None

    def names(self) -> dict[str, list[str]]:
        return _names(self.lm)

    def buffers(self) -> dict[str, Tensor]:
        return {}

    def fill(self, parts: Mapping[str, Part]) -> None:
        """Stream the base, rounded to the dtype in which engines hold it."""
        left = {name.replace(WRAPPED, "."): part for name, part in parts.items()}
        buffers = {name.replace(WRAPPED, "."): buffer for name, buffer in self.lm.named_buffers()}
        dtype = torch_dtype(self.model.dtype)
        for name, tensor in Checkpoint(Path(self.model.path), self.model.trust_remote_code).stream() if parts else ():
            if name in left:
                left.pop(name).write(tensor.to(dtype))
            elif name in buffers:
                buffers[name].copy_(tensor)
        if left:
            raise ValueError(f"model.path={self.model.path!r} is incomplete: it has no weights for {sorted(left)[:3]}")

    def of(self, policy: Policy) -> Weights:
        if self._is_base(policy):
            return InMemoryWeights(self.fresh)
        weights = policy.weights
        if not isinstance(weights, Adapter):
            raise ValueError(
                f"policy {policy.name!r} of round {policy.round} has weights of its own, but learner.lora trains "
                f"adapters of {self.model.path}. Fix: start from that model, or learner.lora.rank=0."
            )
        if weights.base_sha256 != self.base:
            raise ValueError(
                f"policy {policy.name!r} of round {policy.round} is an adapter for the weights "
                f"{weights.base_sha256[:12]}…, but {self.model.path} holds {self.base[:12]}…. Fix: set model.path to "
                "the folder that it was trained on."
            )
        if (weights.rank, weights.scale) != (self.lora.rank, self.lora.alpha / self.lora.rank):
            raise ValueError(
                f"policy {policy.name!r} of round {policy.round} has an adapter of rank {weights.rank} and alpha "
                f"{weights.alpha:g}, but learner.lora has rank={self.lora.rank} and alpha={self.lora.alpha:g}. "
                "Fix: set them to the same values."
            )
        return weights.tensors

    def at_hand(self, policy: Policy) -> AbstractContextManager[None] | None:
        """Of the base: a context with the adapter switched off."""
        return self._off() if self._is_base(policy) else None

    def sha256(self, tensors_sha256: str) -> str:
        return adapter_fingerprint(self.base, tensors_sha256, scale=self.lora.alpha / self.lora.rank)

    def weights(self, tensors: Weights) -> Adapter:
        base = Checkpoint(Path(self.model.path), self.model.trust_remote_code)
        return Adapter(base, self.base, self.lora.rank, self.lora.alpha, tensors)

    def average(self, terms: Sequence[tuple[Policy, float]], dtype: torch.dtype) -> Weights:
        """Raises ValueError: the mean of LoRA adapters has a higher rank."""
        raise ValueError(
            "learner.lora trains adapters, whose average has a higher rank: the mean of the products B A is not the "
            "product of the means. Fix: learner.lora.rank=0, or a schedule that averages no policies."
        )

    def save(
        self, folder: Path, index: Index, tensors: Iterator[tuple[str, Tensor]], *, bucket: int, rank: int, ranks: int
    ) -> dict[str, str]:
        """Rank 0 writes peft's format, one file, and the tokenizer."""
        adapter = {name: tensor.to("cpu", copy=True) for name, tensor in tensors}
        if rank == 0:
            write_adapter(folder, self.weights(InMemoryWeights(adapter)))
            save_tokenizer(folder, self.model)
        return {}

    def _is_base(self, policy: Policy) -> bool:
        """Whether it is the base without an adapter."""
        weights = policy.weights
        return isinstance(weights, Checkpoint) and weights.path.resolve() == Path(self.model.path).resolve()

    @contextmanager
    def _off(self) -> Iterator[None]:
        from peft.tuners.tuners_utils import BaseTunerLayer

        layers = [layer for layer in self.lm.modules() if isinstance(layer, BaseTunerLayer)]
        for layer in layers:
            layer.enable_adapters(False)
        try:
            yield
        finally:
            for layer in layers:
                layer.enable_adapters(True)


def add_adapter(lm: PreTrainedModel, lora: LoRA, model: Model) -> LoRAModel:
    """Freeze the model and add an adapter to its linear layers. Raises ValueError if it has none.

    Rounds the base to `model.dtype`, in which engines hold it. A model without weights has them from `fill`.
    """
    from peft import LoraConfig, inject_adapter_in_model

    dtype = torch_dtype(model.dtype)
    with torch.no_grad():
        for parameter in lm.parameters():
            if parameter.is_floating_point() and not parameter.is_meta:  # what is quantised stays so
                parameter.copy_(parameter.to(dtype))
    targets = lora.chosen(*linear_layers(lm))
    settings = LoraConfig(r=lora.rank, lora_alpha=lora.alpha, lora_dropout=0.0, target_modules=targets)
    with torch.random.fork_rng(devices=[]), with_stand_ins(lm):
        torch.manual_seed(lora.seed)
        inject_adapter_in_model(settings, lm, adapter_name=NAME)
    parameters = dict(lm.named_parameters())
    fresh = {names[0]: parameters[name].detach().to(dtype, copy=True) for name, names in _names(lm).items()}
    return LoRAModel(model, lm, lora, checkpoint_fingerprint(Path(model.path)), fresh)


def linear_layers(lm: PreTrainedModel) -> tuple[list[str], list[str]]:
    """The names of the layers that can have an adapter, and those of all other modules."""
    output = lm.get_output_embeddings()
    layers = [name for name, module in lm.named_modules() if isinstance(module, nn.Linear) and module is not output]
    return layers, [name for name, _ in lm.named_modules() if name and name not in layers]


def _names(lm: PreTrainedModel) -> dict[str, list[str]]:
    """Parameter name -> [peft's name in a file], of the adapter."""
    own = [name for name, _ in lm.named_parameters() if f".{NAME}." in name and ".lora_" in name]
    return {name: [PREFIX + name.replace(f".{NAME}.", ".")] for name in own}
