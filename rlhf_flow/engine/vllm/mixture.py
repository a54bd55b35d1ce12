"""Two models that vLLM takes for one: it draws from the first, from the second, or from their geometric mixture.

    log pi_mix(.|prefix) = (1 - w) log pi(.|prefix) + w log pi_ref(.|prefix) + constant

Munos et al. 2023, arXiv:2312.00886. vLLM sees the attention layers of both, so a block of its cache holds the keys and
values of both for the same tokens; its scheduler, its prefix cache and its sampler serve them as they serve any model.

vLLM's processes import this module by the name of `doubled`, and thereby register the class.
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
    """Two networks of one architecture. The interface is that of vLLM's own models."""

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
                    f"{type(self.policy).__name__} cannot be mixed: vLLM keeps more of it than the keys "
                    f"and values of each token ({special.__name__}). Try engine=huggingface."
                )
        self.weight = 0.5  # of the reference. Both networks work while vLLM measures how much memory they take
        # Both begin with the checkpoint: vLLM reads it once for the policy and once more for these.
        self.secondary_weights = [DefaultModelLoader.Source(model.model, model.revision, prefix="reference.")]

    def embed_input_ids(self, input_ids: Tensor) -> Tensor:
        raise NotImplementedError("two models read tokens, for each embeds them in its own way")

    def forward(
        self,
        input_ids: Tensor,  # [T]
        positions: Tensor,
        intermediate_tensors: object = None,
        inputs_embeds: Tensor | None = None,
    ) -> Tensor:
        """Hidden states [T, H] of the network at work, or [T, 2H] of both side by side."""
        hidden = [network(input_ids, positions) for network in self._at_work()]
        return hidden[0] if len(hidden) == 1 else torch.cat(hidden, dim=-1)

    def compute_logits(self, hidden_states: Tensor) -> Tensor | None:
        """Logits [T, V] of hidden states as `forward` gives them; None on all ranks but the first."""
        networks = self._at_work()
        parts = hidden_states.chunk(len(networks), dim=-1)
        logits = [network.compute_logits(part) for network, part in zip(networks, parts, strict=True)]
        return None if logits[0] is None else blend(logits, self.weight)

    def load_weights(self, weights: Iterable[tuple[str, Tensor]]) -> set[str]:
        """Each to the network that its name begins with; names as of one model are the policy's."""
        named = ((name if name.startswith(PREFIXES) else f"policy.{name}", tensor) for name, tensor in weights)
        loaded = AutoWeightsLoader(self).load_weights(named)
        self.secondary_weights = []  # later loads bring what they mean to replace
        return loaded

    def _at_work(self) -> list[Any]:
        shares = ((self.policy, 1 - self.weight), (self.reference, self.weight))
        return [network for network, share in shares if share > 0]


ARCHITECTURE = TwoModels.__name__
ModelRegistry.register_model(ARCHITECTURE, TwoModels)


def doubled(config: PreTrainedConfig) -> PreTrainedConfig:
    """The configuration of two models, from that of one."""
    config.mixed_architectures, config.architectures = config.architectures, [ARCHITECTURE]
    return config


def options() -> dict[str, Any]:
    """The arguments of `vllm.LLM` that make it hold two models."""
    return {"hf_overrides": doubled}
