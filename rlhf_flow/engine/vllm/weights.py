"""The weights inside a live vLLM: how new ones get there, and which of them it draws with."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rlhf_flow.engine.mixture import NETWORKS, POLICY, REFERENCE
from rlhf_flow.weights.buckets import BUCKET, grouped

if TYPE_CHECKING:
    from torch import Tensor
    from vllm import LLM


class Weights:
    """Of one model, or of the two that `vllm_mixture` puts side by side. What any of them cached is never reused."""

    def __init__(self, llm: LLM, *, mixes: bool, processes: bool) -> None:
        self._llm = llm
        self._mixes = mixes
        self._processes = processes  # vLLM's ranks are processes of their own
        self._share: float | None = None  # of the reference in what is drawn; None: not told yet

    def put(self, slot: int, tensors: Iterator[tuple[str, Tensor]]) -> None:
        """Replace the weights in a slot, as the tensors come."""
        if self._mixes:
            tensors = ((f"{NETWORKS[slot]}.{name}", tensor) for name, tensor in tensors)
        if self._processes:
            self._put_by_file(tensors)
        else:
            self._llm.collective_rpc("reload_weights", kwargs={"weights_iterator": tensors})
        self._llm.collective_rpc("pack_heads")
        self._forget()

    def mix(self, share: float) -> None:
        """Draw from now on with this share of the reference; of one model there is nothing to mix."""
        if not self._mixes or share == self._share:
            return
        self._llm.collective_rpc("mix", args=(share,))
        # Blocks hold what the networks at work computed. Between two mixtures those are the same, and so is it.
        if self._share is None or {share, self._share} & {POLICY, REFERENCE}:
            self._forget()
        self._share = share

    def _put_by_file(self, tensors: Iterator[tuple[str, Tensor]]) -> None:
        """Tensors cannot be passed to other processes."""
        from safetensors.torch import save_file

        with tempfile.TemporaryDirectory() as folder:
            for number, group in enumerate(grouped(tensors, BUCKET)):
                apart = {name: tensor.contiguous().clone() for name, tensor in group.items()}  # a file shares no memory
                save_file(apart, Path(folder) / f"model-{number:05d}.safetensors")
            self._llm.collective_rpc("reload_weights", kwargs={"weights_path": folder})

    def _forget(self) -> None:
        if not self._llm.reset_prefix_cache():
            raise RuntimeError("vLLM refused to reset its prefix cache, which holds what other weights computed")


def mixing() -> dict[str, Any]:
    """The arguments of `vllm.LLM` that make it hold two models."""
    from rlhf_flow.engine.vllm import mixture as vllm_mixture

    return vllm_mixture.options()
