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

from rlhf_flow.chat import FORMATS, chat_tokens, plain_view
from rlhf_flow.scorer.batches import Tokens, by_length, packed, padded
from rlhf_flow.scorer.checkpoint import DTYPES, Source, at_work
from rlhf_flow.scorer.matches import both_views, matches
from rlhf_flow.scorer.reward_model import View, cut_front
from rlhf_flow.specs import Place
from rlhf_flow.types import Message, Prompt, Response, Rollouts, Scored

if TYPE_CHECKING:
    from transformers import PretrainedConfig, PreTrainedModel


@dataclass(frozen=True)
class GPM:
    """A general preference model, such as `rlhf-flow train-reward reward=gpm` makes, in its own chat template.

    It embeds every answer by itself, so it has no preference for an order, and two equal answers tie exactly.
    """

    path: str  # local folder, or name on the hub
    revision: str | None = None
    trust_remote_code: bool = False
    format: str = "chat"  # chat: its own template; plain: the texts with blank lines between
    max_tokens: int | None = None  # of prompt and answer; None: all that the model can read
    batch_tokens: int = 8192  # padding included; a conversation longer than that is read alone
    dtype: str = "float32"

    def __post_init__(self) -> None:
        for key, rule, ok in (
            ("path", "a checkpoint", bool(self.path)),
            ("format", f"one of {', '.join(FORMATS)}", self.format in FORMATS),
            ("max_tokens", ">= 2", self.max_tokens is None or self.max_tokens >= 2),
            ("batch_tokens", ">= 1", self.batch_tokens >= 1),
            ("dtype", f"one of {', '.join(DTYPES)}", self.dtype in DTYPES),
        ):
            if not ok:
                raise ValueError(f"scorer.{key} must be {rule}, got {vars(self)[key]!r}")

    @property
    def can_cycle(self) -> bool:
        return True

    @property
    def loads_model(self) -> bool:
        return True

    def fingerprint(self) -> str:
        """Hash of the weights of a local checkpoint; a model of the hub is what its name and revision say."""
        return self._source.fingerprint()

    def check(self) -> None:
        """Raise ValueError where the checkpoint embeds nothing, as far as can be told without its weights."""
        self._source.longest(self._config(), self._source.tokenizer(self.format), self.max_tokens)

    def open(self, place: Place) -> GPMJudge:
        """Load the model onto `place.device`. Raises ValueError where it embeds nothing."""
        from transformers import AutoModelForSequenceClassification

        config, tokenizer = self._config(), self._source.tokenizer(self.format)
        longest = self._source.longest(config, tokenizer, self.max_tokens)
        model = at_work(self._source.model(AutoModelForSequenceClassification.from_pretrained, self.dtype), place)
        if "score" not in dict(model.named_children()):
            raise ValueError(f"scorer.path must be a decoder with a layer `score`, and {self.path!r} has none.")

        def view(messages: Sequence[Message], answer: str) -> list[int]:
            if self.format == "chat":
                return chat_tokens(tokenizer, [*messages, Message("assistant", answer)], reply=False)
            return plain_view(tokenizer, messages, answer)

        return GPMJudge(model, view, longest=longest, batch_tokens=self.batch_tokens)

    @property
    def _source(self) -> Source:
        return Source(self.path, self.revision, self.trust_remote_code)

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

    def __init__(self, model: PreTrainedModel, view: View, *, longest: int, batch_tokens: int) -> None:
        self._model = model
        self._view = view
        self._longest = longest
        self._batch_tokens = batch_tokens

    def score(self, rollouts: Rollouts) -> Scored:
        """Read every conversation that is compared once. The batches are a function of their set.

        Raises FloatingPointError, with a response's id, where an embedding is not finite.
        """
        asked = matches(rollouts)
        views, truncated = {}, 0
        for match in asked:
            for response in (match.first, match.second):
                if response.id not in views:
                    tokens = self._read(match.prompt, response)
                    truncated += len(tokens) > self._longest
                    views[response.id] = cut_front(tokens, self._longest)
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

    def close(self) -> None:
        """Let go of the model."""
        del self._model

    def _read(self, prompt: Prompt, response: Response) -> Tokens:
        try:
            return tuple(self._view(prompt.messages, response.text))
        except ValueError as error:
            raise ValueError(f"response {response.id!r}: {error}") from error

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
