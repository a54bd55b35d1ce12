"""Scorers that run a sequence-classification checkpoint on each conversation."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, ClassVar

from rlhf_flow.scorer.fields import check_fields
from rlhf_flow.scorer.models.hf_checkpoint import DTYPES, OwnModel, Source
from rlhf_flow.scorer.models.reader import Reader
from rlhf_flow.specs import Place
from rlhf_flow.tokenization.chat_template import FORMATS, chat_text, encode_chats, encode_texts, plain_text
from rlhf_flow.types import Message

if TYPE_CHECKING:
    from transformers import PretrainedConfig, PreTrainedModel, PreTrainedTokenizerBase

CHARACTERS = 16  # of a group that is tokenised while the one before is run, for each token of a batch


@dataclass(frozen=True)
class Classifier(OwnModel):
    """The checkpoint, and how prompt and answer are rendered for it."""

    path: str  # local folder, or name on the hub
    revision: str | None = None  # of a name on the hub
    trust_remote_code: bool = False  # run the checkpoint's own code
    format: str = "chat"  # chat: its own template; plain: the texts with blank lines between
    max_tokens: int | None = None  # of prompt and answer; null: the model's context length
    batch_tokens: int = 8192  # of a batch, padding included; a longer conversation is a batch of its own
    dtype: str = "float32"  # float32 | bfloat16: a GPU computes the second several times faster

    loads_model: ClassVar[bool] = True

    def __post_init__(self) -> None:
        check_fields(
            self,
            ("path", "a checkpoint", bool(self.path)),
            ("format", f"one of {', '.join(FORMATS)}", self.format in FORMATS),
            ("max_tokens", ">= 2", self.max_tokens is None or self.max_tokens >= 2),
            ("batch_tokens", ">= 1", self.batch_tokens >= 1),
            ("dtype", f"one of {', '.join(DTYPES)}", self.dtype in DTYPES),
            ("threads", ">= 1, or null", self.threads is None or self.threads >= 1),
        )

    @property
    def outputs(self) -> int:
        """The number of labels of its head."""
        return int(self._source.config().num_labels or 0)

    def fingerprint(self) -> str:
        """Hash of the weights of a local checkpoint; name and revision of a model on the hub."""
        return self._source.fingerprint()

    def check(self) -> None:
        """Raise ValueError if the checkpoint is of another kind, as far as that shows without its weights."""
        self.reader(self._config())

    @property
    def _source(self) -> Source:
        return Source(self.path, self.revision, self.trust_remote_code, self.chat_template)

    def _config(self) -> PretrainedConfig:
        """The model's configuration. Raises ValueError if the checkpoint is of another kind."""
        return self._source.config()

    def tokenizer(self) -> PreTrainedTokenizerBase:
        return self._source.tokenizer(self.format)

    def reader(self, config: PretrainedConfig | None = None) -> Reader:
        """Renders conversations; loads no weights. `config`: the model's, if it is loaded already."""
        tokenizer = self.tokenizer()
        longest = self._source.longest(config or self._source.config(), tokenizer, self.max_tokens)

        def render(messages: Sequence[Message], answer: str) -> str:
            if self.format == "chat":
                return chat_text(tokenizer, [*messages, Message("assistant", answer)], reply=False)
            return plain_text(messages, answer)

        encode = encode_chats if self.format == "chat" else encode_texts
        return Reader(render, partial(encode, tokenizer), longest)

    def _loaded(self, place: Place) -> tuple[PreTrainedModel, Reader]:
        """The model on `place.device`, and its reader."""
        from transformers import AutoModel, AutoModelForSequenceClassification

        config = self._config()
        reader = self.reader(config)
        auto_class = AutoModel if self._own_code(config) == "AutoModel" else AutoModelForSequenceClassification
        return self._source.model(auto_class.from_pretrained, self.dtype, place.with_threads(self.threads)), reader

    def _own_code(self, config: PretrainedConfig) -> str | None:
        """The auto class that the checkpoint's own code registers, if that code is trusted."""
        own = config.to_dict().get("auto_map") or {}
        names = [name for name in ("AutoModelForSequenceClassification", "AutoModel") if name in own]
        return names[0] if names and self.trust_remote_code else None

    @staticmethod
    def _classes(config: PretrainedConfig) -> list[str]:
        """The model classes that a configuration names, those of the checkpoint's own code included."""
        return [*(config.architectures or ()), *(config.to_dict().get("auto_map") or ())]
