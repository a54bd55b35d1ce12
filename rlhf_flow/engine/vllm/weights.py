"""The weights in vLLM: loading new ones, and selecting the mixture weight."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict, replace
from typing import TYPE_CHECKING
from uuid import uuid4

from rlhf_flow.engine.mixture import NETWORKS, POLICY, REFERENCE
from rlhf_flow.system.background import in_thread
from rlhf_flow.system.rendezvous import LOOPBACK, free_port
from rlhf_flow.weights.broadcast import SENDER, Channel
from rlhf_flow.weights.buckets import BUCKET, in_new_buckets

if TYPE_CHECKING:
    from torch import Tensor
    from vllm import LLM

SECONDS = 600.0  # longest wait of a tensor-parallel rank for weights


class Weights:
    """The weights of one model, or of the two in `TwoModels`. KV blocks of replaced weights are never reused."""

    def __init__(self, llm: LLM, *, mixes: bool, ranks: int) -> None:
        self._llm = llm
        self._mixes = mixes
        self._ranks = ranks  # tensor-parallel; several run in processes of their own
        self._weight: float | None = None  # of the reference; None: not set yet
        self._channel = ""  # the id of the one that the workers have joined

    def load(self, slot: int, tensors: Iterator[tuple[str, Tensor]]) -> None:
        """Replace the weights in a slot, tensor by tensor."""
        if self._ranks > 1:
            self._load_in_processes(slot, tensors)
            return
        prefix = self._prefix(slot)
        named = ((prefix + name, tensor) for name, tensor in tensors)
        self._llm.collective_rpc("reload_weights", kwargs={"weights_iterator": named})
        self._replaced()

    def receive(self, slot: int, channel: Channel) -> None:
        """Replace the weights in a slot by those that the channel's sender broadcasts. `channel`: of the first rank."""
        if channel.id != self._channel:
            self._llm.collective_rpc("init_weight_transfer_engine", args=(asdict(channel),))
            self._channel = channel.id
        self._llm.collective_rpc("start_weight_update")
        self._llm.collective_rpc("update_weights", args=({"prefix": self._prefix(slot)},))
        self._llm.collective_rpc("finish_weight_update")
        self._replaced()

    def checksum(self) -> object:
        """A value that changes with the weights."""
        return self._llm.collective_rpc("checksum")

    def mix(self, weight: float) -> None:
        """Set the weight of the reference. Without a second model this does nothing."""
        if not self._mixes or weight == self._weight:
            return
        self._llm.collective_rpc("mix", args=(weight,))
        # KV blocks hold the keys and values of the active networks, which are the same in any two proper mixtures.
        if self._weight is None or {weight, self._weight} & {POLICY, REFERENCE}:
            self._reset_cache()
        self._weight = weight

    def _load_in_processes(self, slot: int, tensors: Iterator[tuple[str, Tensor]]) -> None:
        """`collective_rpc` passes no tensors to other processes, so this one broadcasts them."""
        sender = Channel(uuid4().hex, LOOPBACK, free_port(LOOPBACK), SENDER, 1 + self._ranks, SECONDS)

        def send() -> None:
            opened = sender.open()
            opened.send(in_new_buckets(tensors, BUCKET))
            opened.close()

        with in_thread(send, name="weights"):
            self.receive(slot, replace(sender, rank=SENDER + 1))

    def _prefix(self, slot: int) -> str:
        return f"{NETWORKS[slot]}." if self._mixes else ""

    def _replaced(self) -> None:
        self._llm.collective_rpc("pack_heads")
        self._reset_cache()

    def _reset_cache(self) -> None:
        if not self._llm.reset_prefix_cache():
            raise RuntimeError("vLLM refused to reset its prefix cache, which holds keys and values of other weights")
