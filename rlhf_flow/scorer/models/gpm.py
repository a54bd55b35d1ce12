"""A general preference model (GPM): a sequence-classification checkpoint whose 2k labels embed an answer.

P(i beats j) = sigma(<R v_i, v_j>), Zhang et al. 2024, arXiv:2410.02197: preferences may be intransitive, at the cost
of one forward pass per answer.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar, TypeAlias

import numpy as np

from rlhf_flow.metrics.stats import sigmoid
from rlhf_flow.scorer.models.classifier import CHARACTERS, Classifier
from rlhf_flow.scorer.models.hf_checkpoint import LoadedModel
from rlhf_flow.scorer.models.reader import Reader
from rlhf_flow.scorer.pairwise import both_views, matches
from rlhf_flow.scorer.token_batches import Tokens, in_batches, padded
from rlhf_flow.specs import Place
from rlhf_flow.types import Rollouts, Scored

if TYPE_CHECKING:
    from torch import Tensor
    from transformers import PretrainedConfig, PreTrainedModel


LogOdds: TypeAlias = Callable[[np.ndarray, np.ndarray], np.ndarray]


@dataclass(frozen=True)
class GPM(Classifier):
    """A general preference model, such as `rlhf-flow train-reward reward=gpm` trains, in its own chat template.

    It embeds each answer by itself, so it has no position bias, and equal answers tie exactly.
    """

    intransitive: ClassVar[bool] = True
    cache_format: ClassVar[str] = "pairs"

    @property
    def odds(self) -> LogOdds:
        """How two embeddings are compared."""
        return log_odds

    def open(self, place: Place) -> GPMJudge:
        """Load the model onto `place.device`. Raises ValueError if it is no GPM."""
        model, reader = self._loaded(place)
        if "score" not in dict(model.named_children()):
            raise ValueError(f"scorer.path must be a decoder with a layer `score`, and {self.path!r} has none.")
        return GPMJudge(model, reader, self.odds, batch_tokens=self.batch_tokens)

    def _config(self) -> PretrainedConfig:
        config = self._source.config()
        classes = self._classes(config)
        if not any(name.endswith("ForSequenceClassification") for name in classes) or (config.num_labels or 1) % 2:
            raise ValueError(
                f"scorer.path must be a sequence-classification checkpoint with an even number of labels, and "
                f"{self.path!r} is {', '.join(classes) or 'none'} with {config.num_labels}. Fix: for one "
                "label use scorer=reward_model."
            )
        return config


class GPMJudge(LoadedModel):
    """A loaded general preference model."""

    def __init__(self, model: PreTrainedModel, reader: Reader, odds: LogOdds, *, batch_tokens: int) -> None:
        super().__init__(model)
        self._odds = odds
        self._reader = reader
        self._batch_tokens = batch_tokens

    def score(self, rollouts: Rollouts) -> Scored:
        """Embed every conversation of a match once. The batches do not depend on the order of the conversations.

        Raises FloatingPointError, with a response's id, if an embedding is not finite.
        """
        asked = matches(rollouts)
        compared = {one.id: (match.prompt, one) for match in asked for one in (match.first, match.second)}
        embedded, counts = self._reader.outputs(
            list(compared.values()), self._embed, characters=CHARACTERS * self._batch_tokens
        )
        for id, vector in embedded.items():
            if not np.isfinite(vector).all():
                raise FloatingPointError(f"the GPM embedded response {id!r} as {vector}")
        odds = [self._odds(embedded[match.first.id], embedded[match.second.id]) for match in asked]
        utility, wins = both_views(rollouts, [float(sigmoid(nats)) for nats in odds])
        return Scored(rollouts, utility=utility, wins=wins, counts=counts)

    def _embed(self, rows: list[Tokens]) -> np.ndarray:
        """float64 [R, 2k]."""
        return in_batches(rows, self._batch_tokens, self._forward)

    def _forward(self, batch: Sequence[Tokens]) -> Tensor:
        """The embedding [R, 2k] of each row, at its last token, whatever the checkpoint's padding token is."""
        import torch

        tokens, mask = padded(batch, 0, self._model.device)
        rows = torch.arange(len(batch), device=tokens.device)
        with torch.inference_mode():
            hidden = self._model.base_model(**self._inputs(tokens, mask), use_cache=False).last_hidden_state
            vectors: Tensor = self._model.get_submodule("score")(hidden[rows, mask.sum(-1) - 1])
        return vectors


def log_odds(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """log P(first beats second) - log P(second beats first), in nats, of embeddings [..., 2k].

    <R v_1, v_2> with k blocks R = [[0, -1], [1, 0]]: skew, so that the reverse order gives exactly the negative.
    """
    blocks = first[..., 0::2] * second[..., 1::2] - first[..., 1::2] * second[..., 0::2]  # [..., k]
    return np.asarray(blocks.sum(-1))
