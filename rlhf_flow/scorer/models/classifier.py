"""What judges have in common that are a sequence-classification checkpoint and read every conversation by itself."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

from rlhf_flow.scorer.models.hf_checkpoint import DTYPES, Source, at_work
from rlhf_flow.scorer.token_batches import Tokens
from rlhf_flow.specs import Place
from rlhf_flow.tokenization.chat_template import FORMATS, Templated, chat_tokens, plain_view
from rlhf_flow.types import Message, Prompt, Response

if TYPE_CHECKING:
    from transformers import PretrainedConfig, PreTrainedModel, PreTrainedTokenizerBase


class View(Protocol):
    """A conversation as the judge reads it."""

    def __call__(self, messages: Sequence[Message], answer: str) -> list[int]: ...


@dataclass(frozen=True)
class Classifier(Templated):
    """Where the checkpoint is, and how it reads a conversation: prompt and answer in its own template."""

    path: str  # local folder, or name on the hub
    revision: str | None = None  # of a name on the hub
    trust_remote_code: bool = False  # run the code that comes with the checkpoint
    format: str = "chat"  # chat: its own template; plain: the texts with blank lines between
    max_tokens: int | None = None  # of prompt and answer; None: all that the model can read
    batch_tokens: int = 8192  # padding included; a conversation longer than that is read alone
    dtype: str = "float32"  # float32 or bfloat16

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

    @property
    def outputs(self) -> int:
        """How many numbers its head gives of a conversation."""
        return int(self._source.config().num_labels or 0)

    def fingerprint(self) -> str:
        """Hash of the weights of a local checkpoint; a model of the hub is what its name and revision say."""
        return self._source.fingerprint()

    @property
    def _source(self) -> Source:
        return Source(self.path, self.revision, self.trust_remote_code, self.chat_template)

    def tokenizer(self) -> PreTrainedTokenizerBase:
        return self._source.tokenizer(self.format)

    def reader(self, config: PretrainedConfig | None = None) -> Reader:
        """How it reads what it is asked; that takes no weights. `config`: the model's, where it is at hand."""
        tokenizer = self.tokenizer()
        longest = self._source.longest(config or self._source.config(), tokenizer, self.max_tokens)

        def view(messages: Sequence[Message], answer: str) -> list[int]:
            if self.format == "chat":
                return chat_tokens(tokenizer, [*messages, Message("assistant", answer)], reply=False)
            return plain_view(tokenizer, messages, answer)

        return Reader(view, longest)

    def _loaded(self, config: PretrainedConfig, place: Place) -> tuple[PreTrainedModel, Reader]:
        """The model on `place.device`, and the reader of what it is asked."""
        from transformers import AutoModel, AutoModelForSequenceClassification

        reader = self.reader(config)
        kind = AutoModel if self._own_code(config) == "AutoModel" else AutoModelForSequenceClassification
        load = kind.from_pretrained
        return at_work(self._source.model(load, self.dtype), place), reader

    def _own_code(self, config: PretrainedConfig) -> str | None:
        """The auto class that the checkpoint's own code registers for it, if that code is trusted."""
        own = config.to_dict().get("auto_map") or {}
        names = [name for name in ("AutoModelForSequenceClassification", "AutoModel") if name in own]
        return names[0] if names and self.trust_remote_code else None

    def _check(self, config: PretrainedConfig) -> None:
        """Raise ValueError where it cannot read, as far as can be told without the weights."""
        self.reader(config)


@dataclass(frozen=True)
class Reader:
    """Conversations as tokens."""

    view: View
    longest: int  # tokens

    def views(self, asked: Iterable[tuple[Prompt, Response]]) -> tuple[dict[str, Tokens], int]:
        """The tokens of each response behind its prompt, by the response's id; and how many had to be cut."""
        views: dict[str, Tokens] = {}
        truncated = 0
        for prompt, response in asked:
            tokens = self._read(prompt, response)
            truncated += len(tokens) > self.longest
            views[response.id] = cut_front(tokens, self.longest)
        return views, truncated

    def _read(self, prompt: Prompt, response: Response) -> Tokens:
        try:
            return tuple(self.view(prompt.messages, response.text))
        except ValueError as error:
            raise ValueError(f"response {response.id!r}: {error}") from error


def cut_front(tokens: Tokens, longest: int) -> Tokens:
    """The first token (BOS) and the last `longest - 1`: the answer is judged, so it is the prompt's front that goes."""
    return tokens if len(tokens) <= longest else (tokens[0], *tokens[len(tokens) - longest + 1 :])
