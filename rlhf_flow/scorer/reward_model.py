"""A Bradley-Terry reward model: any Hugging Face sequence-classification checkpoint with one label.

P(i beats j) = sigma(r_i - r_j), Bradley and Terry 1952; for language models Ouyang et al. 2022, arXiv:2203.02155.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Protocol, TypeVar

from rlhf_flow.chat import FORMATS, chat_tokens, plain_view, require_template
from rlhf_flow.protocols import Place
from rlhf_flow.scorer.wins import bradley_terry, by_answer
from rlhf_flow.types import Message, Prompt, Response, Rollouts, Scored
from rlhf_flow.weights import checkpoint_fingerprint

if TYPE_CHECKING:
    from transformers import PretrainedConfig, PreTrainedModel, PreTrainedTokenizerBase

DTYPES = ("float32", "bfloat16")
Tokens = tuple[int, ...]
Loaded = TypeVar("Loaded")


class View(Protocol):
    """A conversation as the judge reads it."""

    def __call__(self, messages: Sequence[Message], answer: str) -> list[int]: ...


@dataclass(frozen=True)
class RewardModel:
    """A reward model that re-renders prompt and answer in its own template, and scores them in batches by length."""

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
    def loads_model(self) -> bool:
        return True

    def fingerprint(self) -> str:
        """Hash of the weights of a local checkpoint; a model of the hub is what its name and revision say."""
        folder = Path(self.path)
        return checkpoint_fingerprint(folder) if folder.is_dir() else f"{self.path}@{self.revision}"

    def check(self) -> None:
        """Raise ValueError where the checkpoint is no reward model, as far as can be told without its weights."""
        self._longest(self._config(), self._tokenizer())

    def open(self, place: Place) -> RewardJudge:
        """Load the model onto `place.device`. Raises ValueError where it is no reward model."""
        import torch

        config, tokenizer = self._config(), self._tokenizer()
        longest = self._longest(config, tokenizer)
        torch.set_num_threads(place.threads)
        model = self._model()
        model.to(place.device)  # type: ignore[arg-type]  # its wrapper hides that it is a method
        model.eval().requires_grad_(False)

        def view(messages: Sequence[Message], answer: str) -> list[int]:
            if self.format == "chat":
                return chat_tokens(tokenizer, [*messages, Message("assistant", answer)], reply=False)
            return plain_view(tokenizer, messages, answer)

        return RewardJudge(model, view, longest=longest, batch_tokens=self.batch_tokens)

    def _config(self) -> PretrainedConfig:
        from transformers import AutoConfig

        config: PretrainedConfig = self._loaded(AutoConfig.from_pretrained)
        classes = [*(config.architectures or ()), *(config.to_dict().get("auto_map") or ())]
        if not any(name.endswith("ForSequenceClassification") for name in classes):
            raise ValueError(
                f"scorer.path must be a sequence-classification checkpoint, and {self.path!r} is "
                f"{', '.join(classes) or 'none'}. "
                "A language model alone has no score: train a reward model, or use scorer=rule."
            )
        if config.num_labels != 1:
            raise ValueError(
                f"scorer.path must be a checkpoint with num_labels=1 (one score), and {self.path!r} has "
                f"{config.num_labels}. Use one that was trained as a reward model."
            )
        return config

    def _tokenizer(self) -> PreTrainedTokenizerBase:
        from transformers import AutoTokenizer

        tokenizer: PreTrainedTokenizerBase = self._loaded(AutoTokenizer.from_pretrained)
        if self.format == "chat":
            require_template(tokenizer, "scorer.format")
        return tokenizer

    def _model(self) -> PreTrainedModel:
        from transformers import AutoModelForSequenceClassification

        model, report = self._loaded(
            AutoModelForSequenceClassification.from_pretrained,
            dtype=self.dtype,
            output_loading_info=True,
        )
        if report["missing_keys"]:  # transformers would fill them with random numbers
            raise ValueError(
                f"scorer.path must be a complete checkpoint, and {self.path!r} has no weights for "
                f"{', '.join(sorted(report['missing_keys']))}."
            )
        return model

    def _loaded(self, load: Callable[..., Loaded], **more: object) -> Loaded:
        folder = Path(self.path)
        if folder.exists() and not (folder / "config.json").is_file():
            raise ValueError(f"scorer.path must be a Hugging Face checkpoint, and {self.path!r} holds no config.json.")
        try:
            return load(self.path, revision=self.revision, trust_remote_code=self.trust_remote_code, **more)
        except (OSError, ValueError, KeyError) as error:
            raise ValueError(
                f"scorer.path must be a Hugging Face checkpoint: loading {self.path!r} failed: {error}"
            ) from error

    def _longest(self, config: PretrainedConfig, tokenizer: PreTrainedTokenizerBase) -> int:
        """Tokens that are read, of prompt and answer."""
        text = config.get_text_config()
        name = text.attribute_map.get("max_position_embeddings", "max_position_embeddings")  # GPT-2 has its own word
        positions = text.to_dict().get(name)
        known = [tokenizer.model_max_length, *([] if positions is None else [positions])]
        context = min(known)
        if self.max_tokens is None and context > 10**9:  # what tokenizers say that know no limit
            raise ValueError(f"scorer.max_tokens must be given, because {self.path!r} names no longest input.")
        if self.max_tokens is not None and self.max_tokens > context:
            raise ValueError(
                f"scorer.max_tokens must be <= {context}, which {self.path!r} can read, got {self.max_tokens}"
            )
        return context if self.max_tokens is None else self.max_tokens


class RewardJudge:
    """A reward model at work."""

    def __init__(self, model: PreTrainedModel, view: View, *, longest: int, batch_tokens: int) -> None:
        self._model = model
        self._pad: int | None = model.config.get_text_config().pad_token_id
        self._view = view
        self._longest = longest
        self._batch_tokens = batch_tokens

    def score(self, rollouts: Rollouts) -> Scored:
        """Score every conversation once; identical ones share their score, so that they tie exactly.

        The batches are a function of the set of conversations: the order of the prompts changes nothing.
        Raises FloatingPointError, with a response's id, where a score is not finite.
        """
        views, truncated = {}, 0
        for prompt, responses in zip(rollouts.prompts, rollouts.responses, strict=True):
            for response in responses:
                tokens = self._read(prompt, response)
                truncated += len(tokens) > self._longest
                views[response.id] = cut_front(tokens, self._longest)
        distinct = sorted(set(views.values()), key=lambda tokens: (len(tokens), tokens))
        worth = {
            tokens: score
            for batch in packed(distinct, self._batch_tokens)
            for tokens, score in zip(batch, self._forward(batch), strict=True)
        }
        for id, tokens in views.items():
            if not math.isfinite(worth[tokens]):
                raise FloatingPointError(
                    f"the reward model scored response {id!r} {worth[tokens]}; try scorer.dtype=float32"
                )
        utility = by_answer(rollouts, {id: worth[tokens] for id, tokens in views.items()})  # [B, N]
        counts = {"judge/queries": len(distinct), "judge/truncated": truncated}
        return Scored(rollouts, utility=utility, wins=bradley_terry(utility), counts=counts)

    def close(self) -> None:
        """Let go of the model."""
        del self._model

    def _read(self, prompt: Prompt, response: Response) -> Tokens:
        try:
            return tuple(self._view(prompt.messages, response.text))
        except ValueError as error:
            raise ValueError(f"response {response.id!r}: {error}") from error

    def _forward(self, batch: Sequence[Tokens]) -> list[float]:
        """Scores, one per row of the batch."""
        import torch

        pad = self._padding(batch)
        longest = max(map(len, batch))
        tokens = torch.full((len(batch), longest), pad, dtype=torch.long)
        mask = torch.zeros((len(batch), longest), dtype=torch.long)
        for at, row in enumerate(batch):  # padded on the right
            tokens[at, : len(row)] = torch.tensor(row)
            mask[at, : len(row)] = 1
        device = self._model.device
        with torch.inference_mode():
            output = self._model(input_ids=tokens.to(device), attention_mask=mask.to(device))
        return [float(score) for score in output.logits[:, 0].float()]

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


def cut_front(tokens: Tokens, longest: int) -> Tokens:
    """The first token (BOS) and the last `longest - 1`: the answer is judged, so it is the prompt's front that goes."""
    return tokens if len(tokens) <= longest else (tokens[0], *tokens[len(tokens) - longest + 1 :])


def packed(rows: Sequence[Tokens], budget: int) -> Iterator[list[Tokens]]:
    """Batches of rows that are sorted by length, as many as fit into `budget` tokens with padding, at least one."""
    batch: list[Tokens] = []
    for row in rows:
        if batch and (len(batch) + 1) * len(row) > budget:
            yield batch
            batch = []
        batch.append(row)
    if batch:
        yield batch
