"""The LoRA adapter that vLLM applies to the loaded weights."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rlhf_flow.weights.source import Adapter, write_adapter

if TYPE_CHECKING:
    from vllm import LLM
    from vllm.lora.request import LoRARequest

RANKS = (1, 8, 16, 32, 64, 128, 256, 320, 512)  # that vLLM accepts as max_lora_rank


class Adapters:
    """At most one, for all requests of a batch: on the CPU vLLM confuses requests with and without an adapter."""

    def __init__(self, llm: LLM, *, rank: int) -> None:
        self._llm, self._rank = llm, rank
        self._number = 0  # of adapters so far; vLLM keys its prefix cache by the adapter's number
        self.request: LoRARequest | None = None  # argument of `LLM.generate`; None: no adapter
        self._folder: tempfile.TemporaryDirectory[str] | None = None  # of the adapter, which vLLM may read again

    def check(self, adapter: Adapter) -> None:
        """Raises ValueError if its rank exceeds engine.lora_rank."""
        if adapter.rank > self._rank:
            raise ValueError(
                f"engine.lora_rank={self._rank}: it must be at least the rank of the adapter, {adapter.rank}. "
                f"Fix: engine.lora_rank={adapter.rank}, or 0 to load whole weights in every round."
            )

    def set(self, adapter: Adapter | None) -> None:
        """Replace the adapter; None removes it."""
        from vllm.lora.request import LoRARequest

        if self.request is not None:
            self._llm.llm_engine.remove_lora(self.request.lora_int_id)
        self.delete_files()
        self.request = None
        if adapter is not None:
            self._folder = tempfile.TemporaryDirectory()
            write_adapter(Path(self._folder.name), adapter)
            self._number += 1
            self.request = LoRARequest(f"adapter-{self._number}", self._number, self._folder.name)
            self._llm.llm_engine.add_lora(self.request)

    def delete_files(self) -> None:
        if self._folder is not None:
            self._folder.cleanup()
        self._folder = None


def room(rank: int) -> dict[str, Any]:
    """Arguments of `vllm.LLM` for an adapter of at most this rank."""
    return {"enable_lora": True, "max_loras": 1, "max_lora_rank": next(most for most in RANKS if most >= rank)}
