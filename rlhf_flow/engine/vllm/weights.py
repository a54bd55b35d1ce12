"""The weights in vLLM: loading new ones, and selecting the mixture weight."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from rlhf_flow.engine.mixture import NETWORKS, POLICY, REFERENCE
from rlhf_flow.weights.buckets import BUCKET, grouped

if TYPE_CHECKING:
    from torch import Tensor
    from vllm import LLM


class Weights:
    """The weights of one model, or of the two in `TwoModels`. KV blocks of replaced weights are never reused."""

    def __init__(self, llm: LLM, *, mixes: bool, processes: bool) -> None:
        self._llm = llm
        self._mixes = mixes
        self._processes = processes  # tensor-parallel ranks run in processes of their own
        self._weight: float | None = None  # of the reference; None: not set yet

    def load(self, slot: int, tensors: Iterator[tuple[str, Tensor]]) -> None:
        """Replace the weights in a slot, tensor by tensor."""
        if self._mixes:
            tensors = ((f"{NETWORKS[slot]}.{name}", tensor) for name, tensor in tensors)
        if self._processes:
            self._load_by_file(tensors)
        else:
            self._llm.collective_rpc("reload_weights", kwargs={"weights_iterator": tensors})
        self._llm.collective_rpc("pack_heads")
        self._reset_cache()

    def mix(self, weight: float) -> None:
        """Set the weight of the reference. Without a second model this does nothing."""
        if not self._mixes or weight == self._weight:
            return
        self._llm.collective_rpc("mix", args=(weight,))
        # KV blocks hold the keys and values of the active networks, which are the same in any two proper mixtures.
        if self._weight is None or {weight, self._weight} & {POLICY, REFERENCE}:
            self._reset_cache()
        self._weight = weight

    def _load_by_file(self, tensors: Iterator[tuple[str, Tensor]]) -> None:
        """For processes, which cannot get tensors through `collective_rpc`."""
        from safetensors.torch import save_file

        with tempfile.TemporaryDirectory() as folder:
            for number, group in enumerate(grouped(tensors, BUCKET)):
                unshared = {name: tensor.contiguous().clone() for name, tensor in group.items()}  # as safetensors wants
                save_file(unshared, Path(folder) / f"model-{number:05d}.safetensors")
            self._llm.collective_rpc("reload_weights", kwargs={"weights_path": folder})

    def _reset_cache(self) -> None:
        if not self._llm.reset_prefix_cache():
            raise RuntimeError("vLLM refused to reset its prefix cache, which holds keys and values of other weights")
