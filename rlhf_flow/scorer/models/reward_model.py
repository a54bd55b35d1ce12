"""A Bradley-Terry reward model: a Hugging Face sequence-classification checkpoint, or one with code of its own.

P(i beats j) = sigma(r_i - r_j), Bradley and Terry 1952; for language models Ouyang et al. 2022, arXiv:2203.02155.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeAlias

from rlhf_flow.scorer.models.classifier import Classifier, Reader
from rlhf_flow.scorer.models.score_head import scores_of
from rlhf_flow.scorer.pairwise import bradley_terry, by_answer
from rlhf_flow.scorer.token_batches import Tokens, by_length, packed, padded
from rlhf_flow.specs import Place
from rlhf_flow.types import Rollouts, Scored
from rlhf_flow.weights.offload import HostOffload

if TYPE_CHECKING:
    from transformers import PretrainedConfig, PreTrainedModel

Scores: TypeAlias = Callable[[list[Tokens]], list[float]]  # of conversations, the shortest first


@dataclass(frozen=True)
class RewardModel(Classifier):
    """A reward model that re-renders prompt and answer in its own template, and scores them in batches by length."""

    label: int | None = None  # which of several scores it is, from 0; null: there is one

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.label is not None and self.label < 0:
            raise ValueError(f"scorer.label must be >= 0, got {self.label}. Leave it out for a model with one score.")

    @property
    def intransitive(self) -> bool:
        return False  # a number for each answer

    @property
    def cache_format(self) -> str:
        return "log_odds"

    def check(self) -> None:
        """Raise ValueError where the checkpoint is no reward model, as far as can be told without its weights."""
        self._check(self._config())

    def open(self, place: Place) -> RewardJudge:
        """Load the model onto `place.device`. Raises ValueError if it gives no score that can be read."""
        model, reader = self._loaded(self._config(), place)
        judge = RewardJudge(model, reader, batch_tokens=self.batch_tokens, label=self.label)
        judge.probe()
        return judge

    def _config(self) -> PretrainedConfig:
        config = self._source.config()
        own = config.to_dict().get("auto_map") or {}
        classes = [*(config.architectures or ()), *own]
        if not self._own_code(config) and not any(name.endswith("ForSequenceClassification") for name in classes):
            raise ValueError(
                f"scorer.path must be a sequence-classification checkpoint, and {self.path!r} is "
                f"{', '.join(classes) or 'none'}. "
                "A language model alone has no score: train a reward model, or ask it with scorer=preference_model."
            )
        labels = int(config.num_labels or 0)
        if not self._own_code(config) and (labels != 1 if self.label is None else labels <= self.label):
            raise ValueError(
                f"scorer.path must be a checkpoint with num_labels=1 (one score), and {self.path!r} has "
                f"{labels}. Fix: choose one of its scores, such as scorer.label=0, or use a reward model."
            )
        return config


class RewardJudge:
    """A reward model at work."""

    def __init__(self, model: PreTrainedModel, reader: Reader, *, batch_tokens: int, label: int | None = None) -> None:
        self._model = model
        self._label = label
        self._aside = HostOffload()
        self._pad: int | None = model.config.get_text_config().pad_token_id
        self._reader = reader
        self._batch_tokens = batch_tokens

    def score(self, rollouts: Rollouts) -> Scored:
        """As `scored`; the batches are a function of the set of conversations: the order of prompts changes nothing."""
        return scored(rollouts, self._reader, self._scores)

    def step_aside(self) -> None:
        self._aside.leave(self._model.device, self._model)

    def come_back(self) -> None:
        self._aside.come_back()

    def close(self) -> None:
        """Let go of the model, once and for all."""
        vars(self).pop("_model", None)

    def probe(self) -> None:
        """Score two short rows, so that a model whose score cannot be read is refused before anything is generated."""
        self._forward([(0, 1, 2), (0, 1)])

    def _scores(self, conversations: list[Tokens]) -> list[float]:
        return [score for batch in packed(conversations, self._batch_tokens) for score in self._forward(batch)]

    def _forward(self, batch: Sequence[Tokens]) -> list[float]:
        """Scores, one per row of the batch."""
        import torch

        tokens, mask = padded(batch, self._padding(batch), self._model.device)
        with torch.inference_mode():
            output = self._model(input_ids=tokens, attention_mask=mask)
        return [float(score) for score in scores_of(output, mask, label=self._label).float()]

    def _padding(self, batch: Sequence[Tokens]) -> int:
        """The padding token of a batch, told to the model: decoders score the last token that is not padding.

        A checkpoint that names one was trained with it. For one that names none, any token serves that ends no row of
        the batch; a fixed one, such as EOS, would hide the ends of the rows themselves.
        """
        if self._pad is not None:
            return self._pad
        config = self._model.config.get_text_config()
        ends = {row[-1] for row in batch}
        config.pad_token_id = next(token for token in range(config.vocab_size) if token not in ends)
        return int(config.pad_token_id)


def scored(rollouts: Rollouts, reader: Reader, scores: Scores) -> Scored:
    """Score every conversation once; identical ones share their score, so that they tie exactly.

    Raises FloatingPointError, with a response's id, where a score is not finite.
    """
    groups = zip(rollouts.prompts, rollouts.responses, strict=True)
    views, truncated = reader.views((prompt, response) for prompt, group in groups for response in group)
    distinct = by_length(set(views.values()))
    worth = dict(zip(distinct, scores(distinct), strict=True))
    for id, tokens in views.items():
        if not math.isfinite(worth[tokens]):
            raise FloatingPointError(f"the reward model scored response {id!r} {worth[tokens]}; try it in float32")
    utility = by_answer(rollouts, {id: worth[tokens] for id, tokens in views.items()})  # [B, N]
    counts = {"judge/queries": len(distinct), "judge/truncated": truncated}
    return Scored(rollouts, utility=utility, wins=bradley_terry(utility), counts=counts)
