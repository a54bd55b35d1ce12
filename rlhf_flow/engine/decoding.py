"""Token-by-token decoding of a batch with transformers and KV caches."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from rlhf_flow.engine.mixture import blend

if TYPE_CHECKING:
    from torch import Tensor
    from transformers import PreTrainedModel
    from transformers.cache_utils import DynamicCache


class DecodingBatch:
    """A batch of sequences, read by one network or by two whose logits are mixed; each network has its own KV cache."""

    def __init__(self, networks: Sequence[PreTrainedModel], weight: float, prompts: Sequence[tuple[int, ...]]) -> None:
        """Read `prompts` [R], equal ones once. `weight` is that of the second network."""
        import torch
        from transformers.cache_utils import DynamicCache

        self._networks, self._weight = networks, weight
        self._caches = [DynamicCache(config=network.config) for network in networks]
        device = networks[0].device
        distinct = list(dict.fromkeys(prompts))
        longest = max(len(prompt) for prompt in distinct)
        pads = [
            longest - len(prompt) for prompt in distinct
        ]  # on the left, so that all answers begin in the same column
        padded = [[0] * pad + list(prompt) for pad, prompt in zip(pads, distinct, strict=True)]
        ids = torch.tensor(padded, device=device)  # [U, S]
        self._mask = (torch.arange(longest, device=device) >= torch.tensor(pads, device=device)[:, None]).long()
        logits = self._read(ids, (self._mask.cumsum(-1) - 1).clamp(min=0))  # [U, V]
        index = {prompt: row for row, prompt in enumerate(distinct)}
        fan = torch.tensor([index[prompt] for prompt in prompts], device=device)  # [R]
        self.keep(fan)
        self.logits = logits[fan]  # float32 [R, V], of the next token

    def keep(self, rows: Tensor) -> None:
        """Select and order the sequences. The logits are stale until `step`."""
        self._mask = self._mask[rows]  # [R, S]
        for cache in self._caches:
            cache.batch_select_indices(rows)

    def step(self, tokens: Tensor) -> None:
        """Append a token [R] to each sequence."""
        import torch

        positions = self._mask.sum(-1, keepdim=True)  # [R, 1]
        self._mask = torch.cat([self._mask, torch.ones_like(self._mask[:, :1])], dim=-1)
        self.logits = self._read(tokens[:, None], positions)

    def _read(self, ids: Tensor, positions: Tensor) -> Tensor:
        """float32 logits [R, V] after ids [R, S], which are appended to the caches."""
        logits = [
            self._last_logits(network, ids, positions, cache)
            for network, cache in zip(self._networks, self._caches, strict=True)
        ]
        return blend(logits, self._weight)

    def _last_logits(self, network: PreTrainedModel, ids: Tensor, positions: Tensor, cache: DynamicCache) -> Tensor:
        output = network(
            input_ids=ids,
            attention_mask=self._mask,
            position_ids=positions,
            past_key_values=cache,
            use_cache=True,
            logits_to_keep=1,
        )
        logits = output.logits[:, -1].float()
        if logits.isnan().any():
            raise RuntimeError(
                "the policy's logits are NaN: its weights are NaN, or its forward pass overflows. Nothing was sampled."
            )
        return logits


def log_probs(networks: Sequence[PreTrainedModel], weight: float, tokens: Sequence[int], first: int) -> Tensor:
    """float32 log-probs [T] of tokens[first:], by one forward pass without a cache."""
    import torch

    ids = torch.tensor([list(tokens)], device=networks[0].device)  # [1, S]
    logits = [network(input_ids=ids, use_cache=False).logits[0, first - 1 : -1].float() for network in networks]
    return blend(logits, weight).log_softmax(-1).gather(-1, ids[0, first:, None])[:, 0]
