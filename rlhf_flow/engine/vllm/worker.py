"""Further methods of vLLM's workers, which import this module by the name of `Extension`.

On a CPU vLLM packs weights for its kernels. After a reload vLLM 0.32 keeps two stale packed copies: of experts, which
`UnquantizedFusedMoEMethod._setup_kernel` packs only when it opens, and of heads that are tied to the embeddings, whose
layer loads no weights itself. Remove `_setup_and_pack` and `pack_heads` once vLLM packs them. GPUs pack neither.
"""

from __future__ import annotations

from functools import wraps
from typing import TYPE_CHECKING

import torch
from vllm.distributed.weight_transfer.factory import WeightTransferEngineFactory
from vllm.model_executor.layers.fused_moe.experts.cpu_moe import CPUUnquantizedExperts
from vllm.model_executor.layers.fused_moe.unquantized_fused_moe_method import UnquantizedFusedMoEMethod
from vllm.model_executor.layers.vocab_parallel_embedding import VocabParallelEmbedding

from rlhf_flow.engine.vllm.receiver import BACKEND, Receiver

if TYPE_CHECKING:
    from torch import Tensor, nn

WeightTransferEngineFactory.register_engine(BACKEND, Receiver)

_setup = UnquantizedFusedMoEMethod._setup_kernel


@wraps(_setup)
def _setup_and_pack(method: UnquantizedFusedMoEMethod, layer: nn.Module, w13: Tensor, w2: Tensor) -> None:
    update = method.moe_kernel is not None
    _setup(method, layer, w13, w2)
    experts = method.moe_kernel.fused_experts
    if update and isinstance(experts, CPUUnquantizedExperts):
        experts.process_weights_after_loading(layer)


UnquantizedFusedMoEMethod._setup_kernel = _setup_and_pack


class Extension:
    """One class for all engines, because vLLM accepts one extension per process."""

    def pack_heads(self) -> None:
        """Pack the output layer from the weights to which it is tied."""
        for layer in self.get_model().modules():  # type: ignore[attr-defined]  # a method of the worker
            if isinstance(layer, VocabParallelEmbedding) and "cpu_linear" in vars(layer):
                layer.quant_method.process_weights_after_loading(layer)

    def checksum(self) -> int:
        """A number that changes with the weights."""
        integers = {1: torch.int8, 2: torch.int16, 4: torch.int32}
        parameters = self.get_model().parameters()  # type: ignore[attr-defined]
        return sum(int(one.data.view(integers[one.itemsize]).sum(dtype=torch.int64)) for one in parameters)

    def mix(self, weight: float) -> None:
        """Set the weight of the reference; 0 and 1 run one network only."""
        self.get_model().weight = weight  # type: ignore[attr-defined]
