"""A LoRA adapter as forward hooks on a network of transformers, whose weights do not change.

y = W x + (alpha / rank) B A x. Hu et al. 2021, arXiv:2106.09685, eq. 3.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from rlhf_flow.weights.source import Adapter

if TYPE_CHECKING:
    from torch import Tensor, nn
    from torch.utils.hooks import RemovableHandle
    from transformers import PreTrainedModel


class LoRAHooks:
    """At most one adapter on a network."""

    def __init__(self, network: PreTrainedModel) -> None:
        self._network = network
        self._hooks: list[RemovableHandle] = []

    def set(self, adapter: Adapter | None) -> None:
        """Replace the adapter; None removes it."""
        while self._hooks:
            self._hooks.pop().remove()
        if adapter is None:
            return
        for name, terms in adapter.terms().items():
            down, up = (term.to(self._network.device, self._network.dtype) for term in terms)
            layer = self._network.get_submodule(name)
            self._hooks.append(layer.register_forward_hook(_adding(down, up, adapter.scale)))


def _adding(down: Tensor, up: Tensor, scale: float) -> Callable[[nn.Module, tuple[Tensor, ...], Tensor], Tensor]:
    def add(layer: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> Tensor:
        return output + scale * (inputs[0] @ down.T @ up.T)  # [..., out]

    return add
