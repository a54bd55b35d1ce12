"""A Bradley-Terry reward model: a Hugging Face sequence-classification checkpoint, or one with its own code.

P(i beats j) = sigma(r_i - r_j), Bradley and Terry 1952; for language models Ouyang et al. 2022, arXiv:2203.02155.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from inspect import signature
from typing import TYPE_CHECKING, ClassVar, TypeAlias

from rlhf_flow.scorer.models.classifier import CHARACTERS, Classifier
from rlhf_flow.scorer.models.hf_checkpoint import LoadedModel
from rlhf_flow.scorer.models.reader import Reader
from rlhf_flow.scorer.models.score_head import scores_of
from rlhf_flow.scorer.pairwise import bradley_terry, by_answer, prompts_and_responses
from rlhf_flow.scorer.token_batches import Tokens, in_batches, padded
from rlhf_flow.specs import Place
from rlhf_flow.types import Rollouts, Scored

if TYPE_CHECKING:
    from torch import Tensor
    from transformers import PretrainedConfig, PreTrainedModel

Scores: TypeAlias = Callable[[list[Tokens]], list[float]]  # of conversations, the shortest first


@dataclass(frozen=True)
class RewardModel(Classifier):
    """Renders prompt and answer in the reward model's own template, and scores them in batches by length."""

    label: int | None = None  # which of several scores to use, from 0; null: the only one

    intransitive: ClassVar[bool] = False
    cache_format: ClassVar[str] = "log_odds"

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.label is not None and self.label < 0:
            raise ValueError(
                f"scorer.label must be >= 0, got {self.label}. Fix: leave it out for a model with one score."
            )

    def open(self, place: Place) -> RewardJudge:
        """Load the model onto `place.device`. Raises ValueError if its output has no score."""
        model, reader = self._loaded(place)
        opened = RewardJudge(model, reader, batch_tokens=self.batch_tokens, label=self.label)
        opened.probe()
        return opened

    def _config(self) -> PretrainedConfig:
        config = self._source.config()
        classes = self._classes(config)
        if not self._own_code(config) and not any(name.endswith("ForSequenceClassification") for name in classes):
            raise ValueError(
                f"scorer.path must be a sequence-classification checkpoint, and {self.path!r} is "
                f"{', '.join(classes) or 'none'}. "
                "Fix: a language model has no score; train a reward model, or use scorer=preference_model."
            )
        labels = int(config.num_labels or 0)
        if not self._own_code(config) and (labels != 1 if self.label is None else labels <= self.label):
            raise ValueError(
                f"scorer.path must be a checkpoint with num_labels=1 (one score), and {self.path!r} has "
                f"{labels}. Fix: choose one of its scores, such as scorer.label=0, or use a reward model."
            )
        return config


class RewardJudge(LoadedModel):
    """A loaded reward model."""

    def __init__(self, model: PreTrainedModel, reader: Reader, *, batch_tokens: int, label: int | None = None) -> None:
        super().__init__(model)
        self._label = label
        self._pad: int | None = model.config.get_text_config().pad_token_id
        self._reader = reader
        self._batch_tokens = batch_tokens
        cached = "use_cache" in signature(model.forward).parameters  # not of encoders, nor of some models' own code
        self._uncached = {"use_cache": False} if cached else {}

    def score(self, rollouts: Rollouts) -> Scored:
        """As `scored`. The batches do not depend on the order of the conversations, so that it changes no bit."""
        return scored(rollouts, self._reader, self._scores, characters=CHARACTERS * self._batch_tokens)

    def probe(self) -> None:
        """Score two short rows, so that a model without a readable score is refused before generation starts."""
        self._forward([(0, 1, 2), (0, 1)])

    def _scores(self, conversations: list[Tokens]) -> list[float]:
        scores: list[float] = in_batches(conversations, self._batch_tokens, self._forward).tolist()
        return scores

    def _forward(self, batch: Sequence[Tokens]) -> Tensor:
        """Scores float32 [R]."""
        import torch

        tokens, mask = padded(batch, self._padding(batch), self._model.device)
        with torch.inference_mode():
            output = self._model(**self._inputs(tokens, mask), **self._uncached)
        return scores_of(output, mask, label=self._label).float()

    def _padding(self, batch: Sequence[Tokens]) -> int:
        """The padding token, which is set in the model: decoders score the last token that is not padding.

        If the checkpoint names none, any token that ends no row of the batch serves; a fixed one, such as EOS, would
        hide the last tokens of rows.
        """
        if self._pad is not None:
            return self._pad
        config = self._model.config.get_text_config()
        ends = {row[-1] for row in batch}
        config.pad_token_id = next(token for token in range(config.vocab_size) if token not in ends)
        return int(config.pad_token_id)


def scored(rollouts: Rollouts, reader: Reader, scores: Scores, *, characters: int | None = None) -> Scored:
    """Score every distinct conversation once; equal ones tie exactly. `characters`: as `Reader.outputs`.

    Raises FloatingPointError, with a response's id, if a score is not finite.
    """
    worth, counts = reader.outputs(prompts_and_responses(rollouts), scores, characters=characters)
    for id, score in worth.items():
        if not math.isfinite(score):
            raise FloatingPointError(f"the reward model scored response {id!r} {score}. Fix: scorer.dtype=float32")
    utility = by_answer(rollouts, worth)  # [B, N]
    return Scored(rollouts, utility=utility, wins=bradley_terry(utility), counts=counts)
