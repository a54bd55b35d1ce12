"""Two models that vLLM serves as one: it samples from the first, the second, or their geometric mixture.

    log pi_mix(.|prefix) = (1 - w) log pi(.|prefix) + w log pi_ref(.|prefix) + constant

Munos et al. 2023, arXiv:2312.00886. vLLM sees the attention layers of both, so a block of its KV cache holds the keys
and values of both; its scheduler, prefix cache and sampler need no change.

vLLM's processes import this module by the name of `doubled`, which registers the class.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedConfig
from vllm import ModelRegistry
from vllm.config import VllmConfig
from vllm.model_executor.model_loader.default_loader import DefaultModelLoader
from vllm.model_executor.models.interfaces import has_inner_state, is_attention_free, is_hybrid, supports_multimodal
from vllm.model_executor.models.utils import AutoWeightsLoader, init_vllm_registered_model, maybe_prefix

from rlhf_flow.engine.mixture import NETWORKS, blend

PREFIXES = tuple(f"{name}." for name in NETWORKS)


class TwoModels(nn.Module):
    """Two networks of one architecture, with the interface of a vLLM model."""

    def __init__(self, *, vllm_config: VllmConfig, prefix: str = "") -> None:
        super().__init__()
        model = vllm_config.model_config
        architectures = model.hf_config.mixed_architectures
        self.policy, self.reference = (
            init_vllm_registered_model(vllm_config, prefix=maybe_prefix(prefix, name), architectures=architectures)
            for name in NETWORKS
        )
        for special in (has_inner_state, is_attention_free, is_hybrid, supports_multimodal):
            if special(self.policy):
                raise ValueError(
                    f"{type(self.policy).__name__} cannot be mixed: vLLM caches more than keys and values for it "
                    f"({special.__name__}). Fix: engine=huggingface."
                )
        self.weight = 0.5  # of the reference. vLLM profiles memory with both networks active
        # Both start from the checkpoint, which vLLM reads a second time for these.
        self.secondary_weights = [DefaultModelLoader.Source(model.model, model.revision, prefix="reference.")]

    def embed_input_ids(self, input_ids: Tensor) -> Tensor:
        raise NotImplementedError("two models need token ids, because each has its own embeddings")

    def forward(
        self,
        input_ids: Tensor,  # [T]
        positions: Tensor,
        intermediate_tensors: object = None,
        inputs_embeds: Tensor | None = None,
    ) -> Tensor:
        """Hidden states [T, H] of the active network, or [T, 2H] of both, concatenated."""
        hidden = [network(input_ids, positions) for network in self._active()]
        return hidden[0] if len(hidden) == 1 else torch.cat(hidden, dim=-1)

    def compute_logits(self, hidden_states: Tensor) -> Tensor | None:
        """Logits [T, V] of hidden states from `forward`; None on all ranks but the first."""
        networks = self._active()
        chunks = hidden_states.chunk(len(networks), dim=-1)
        logits = [network.compute_logits(chunk) for network, chunk in zip(networks, chunks, strict=True)]
        return None if logits[0] is None else blend(logits, self.weight)

    def load_weights(self, weights: Iterable[tuple[str, Tensor]]) -> set[str]:
        """Names start with the network's; names without such a prefix are the policy's."""
        named = ((name if name.startswith(PREFIXES) else f"policy.{name}", tensor) for name, tensor in weights)
        loaded = AutoWeightsLoader(self).load_weights(named)
        self.secondary_weights = []  # later loads bring all their weights
        return loaded

    def _active(self) -> list[Any]:
        shares = ((self.policy, 1 - self.weight), (self.reference, self.weight))
        return [network for network, share in shares if share != 0]


ARCHITECTURE = TwoModels.__name__
ModelRegistry.register_model(ARCHITECTURE, TwoModels)


def doubled(config: PreTrainedConfig) -> PreTrainedConfig:
    """The config of `TwoModels`, from that of one model: vLLM's `hf_overrides`."""
    config.mixed_architectures, config.architectures = config.architectures, [ARCHITECTURE]
    return config
