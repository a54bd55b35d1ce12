"""A general preference model (GPM): a sequence-classification checkpoint whose 2k labels embed an answer.

P(i beats j) = sigma(<R v_i, v_j>), Zhang et al. 2024, arXiv:2410.02197: preferences may have cycles, as those of a
judge that compares, and K answers are read K times, as by a reward model.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from rlhf_flow.scorer.matches import both_views, matches
from rlhf_flow.scorer.models.classifier import Classifier, Reader
from rlhf_flow.scorer.token_batches import Tokens, by_length, packed, padded
from rlhf_flow.specs import Place
from rlhf_flow.types import Rollouts, Scored
from rlhf_flow.weights.offload import HostOffload

if TYPE_CHECKING:
    from transformers import PretrainedConfig, PreTrainedModel


@dataclass(frozen=True)
class GPM(Classifier):
    """A general preference model, such as `rlhf-flow train-reward reward=gpm` makes, in its own chat template.

    It embeds every answer by itself, so it has no preference for an order, and two equal answers tie exactly.
    """

    @property
    def intransitive(self) -> bool:
        return True

    @property
    def cache_format(self) -> str:
        return "pairs"

    def check(self) -> None:
        """Raise ValueError where the checkpoint embeds nothing, as far as can be told without its weights."""
        self._check(self._config())

    def open(self, place: Place) -> GPMJudge:
        """Load the model onto `place.device`. Raises ValueError where it embeds nothing."""
        model, reader = self._loaded(self._config(), place)
        if "score" not in dict(model.named_children()):
            raise ValueError(f"scorer.path must be a decoder with a layer `score`, and {self.path!r} has none.")
        return GPMJudge(model, reader, batch_tokens=self.batch_tokens)

    def _config(self) -> PretrainedConfig:
        config = self._source.config()
        classes = [*(config.architectures or ()), *(config.to_dict().get("auto_map") or ())]
        if not any(name.endswith("ForSequenceClassification") for name in classes) or (config.num_labels or 1) % 2:
            raise ValueError(
                f"scorer.path must be a sequence-classification checkpoint with an even number of labels, and "
                f"{self.path!r} is {', '.join(classes) or 'none'} with {config.num_labels}. One label is "
                "scorer=reward_model."
            )
        return config


class GPMJudge:
    """A general preference model at work."""

    def __init__(self, model: PreTrainedModel, reader: Reader, *, batch_tokens: int) -> None:
        self._model = model
        self._aside = HostOffload()
        self._reader = reader
        self._batch_tokens = batch_tokens

    def score(self, rollouts: Rollouts) -> Scored:
        """Read every conversation that is compared once. The batches are a function of their set.

        Raises FloatingPointError, with a response's id, where an embedding is not finite.
        """
        asked = matches(rollouts)
        compared = {one.id: (match.prompt, one) for match in asked for one in (match.first, match.second)}
        views, truncated = self._reader.views(compared.values())
        distinct = by_length(set(views.values()))
        embedded = {
            tokens: vector
            for batch in packed(distinct, self._batch_tokens)
            for tokens, vector in zip(batch, self._forward(batch), strict=True)
        }
        for id, tokens in views.items():
            if not np.isfinite(embedded[tokens]).all():
                raise FloatingPointError(f"the GPM embedded response {id!r} as {embedded[tokens]}")
        odds = [float(log_odds(embedded[views[match.first.id]], embedded[views[match.second.id]])) for match in asked]
        utility, wins = both_views(rollouts, [1 / (1 + math.exp(-max(odd, -700.0))) for odd in odds])
        counts = {"judge/queries": len(distinct), "judge/truncated": truncated}
        return Scored(rollouts, utility=utility, wins=wins, counts=counts)

    def step_aside(self) -> None:
        self._aside.leave(self._model.device, self._model)

    def come_back(self) -> None:
        self._aside.come_back()

    def close(self) -> None:
        """Let go of the model, once and for all."""
        vars(self).pop("_model", None)

    def _forward(self, batch: Sequence[Tokens]) -> list[np.ndarray]:
        """The embedding float64 [2k] of each row, at its own last token whatever the checkpoint calls padding."""
        import torch

        tokens, mask = padded(batch, 0, self._model.device)
        rows = torch.arange(len(batch), device=tokens.device)
        with torch.inference_mode():
            hidden = self._model.base_model(input_ids=tokens, attention_mask=mask, use_cache=False).last_hidden_state
            score = self._model.get_submodule("score")
            vectors = score(hidden[rows, mask.sum(-1) - 1])  # [R, 2k]
        return list(vectors.double().cpu().numpy())


def log_odds(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """log P(first beats second) - log P(second beats first), in nats, of embeddings [..., 2k].

    <R v_1, v_2> with k blocks R = [[0, -1], [1, 0]]: exactly the negative where the order is turned.
    """
    blocks = first[..., 0::2] * second[..., 1::2] - first[..., 1::2] * second[..., 0::2]  # [..., k]
    return np.asarray(blocks.sum(-1))
