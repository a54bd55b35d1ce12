"""The adapter that a live vLLM draws with, beside the weights that it was opened on."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rlhf_flow.weights.source import Adapter, write_adapter

if TYPE_CHECKING:
    from vllm import LLM
    from vllm.lora.request import LoRARequest

RANKS = (1, 8, 16, 32, 64, 128, 256, 320, 512)  # for which vLLM can set memory aside


class Adapters:
    """At most one at a time, which all requests of a batch share: on the CPU vLLM confuses those with and without."""

    def __init__(self, llm: LLM, *, rank: int) -> None:
        self._llm, self._rank = llm, rank
        self._laid = 0  # how many there were: each has a number of its own, by which vLLM tells what it cached of it
        self.request: LoRARequest | None = None  # what a request has to say to be answered by it; None: by the base
        self._folder: tempfile.TemporaryDirectory[str] | None = None  # of its files, which vLLM may read once more

    def check(self, adapter: Adapter) -> None:
        """Raises ValueError where there is no room for its rank."""
        if adapter.rank > self._rank:
            raise ValueError(
                f"engine.lora_rank must be at least the rank of the adapters that are drawn from, {adapter.rank}; got "
                f"{self._rank}. Set engine.lora_rank={adapter.rank}, or 0 for whole weights in every transfer."
            )

    def lay(self, adapter: Adapter | None) -> None:
        """Answer with `adapter` from now on, or with the base alone."""
        from vllm.lora.request import LoRARequest

        if self.request is not None:
            self._llm.llm_engine.remove_lora(self.request.lora_int_id)
        self.forget()
        self.request = None
        if adapter is not None:
            self._folder = tempfile.TemporaryDirectory()
            write_adapter(Path(self._folder.name), adapter)
            self._laid += 1
            self.request = LoRARequest(f"adapter-{self._laid}", self._laid, self._folder.name)
            self._llm.llm_engine.add_lora(self.request)

    def forget(self) -> None:
        """Delete the files of the adapter."""
        if self._folder is not None:
            self._folder.cleanup()
        self._folder = None


def room(rank: int) -> dict[str, Any]:
    """The arguments of `vllm.LLM` that make room for an adapter of a rank up to this one."""
    return {"enable_lora": True, "max_loras": 1, "max_lora_rank": next(most for most in RANKS if most >= rank)}
