"""A model that answers conversations token by token."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rlhf_flow.engine.decoding import DecodingBatch
from rlhf_flow.report.run_folder import read
from rlhf_flow.runner.prepare import on_disk
from rlhf_flow.seeds import derive
from rlhf_flow.specs import Model
from rlhf_flow.storage.run_policies import named_policy
from rlhf_flow.tokenization.chat_template import ChatTemplate, chat_tokens, fixed, plain_text, plain_tokens
from rlhf_flow.tokenization.end_tokens import end_tokens
from rlhf_flow.types import Message
from rlhf_flow.weights.model_sizes import sizes_of
from rlhf_flow.weights.whole_checkpoint import load_whole

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase


@dataclass(frozen=True)
class Decoding:
    """How answers are sampled."""

    max_tokens: int = 512
    temperature: float = 1.0  # 0: the likeliest token
    seed: int = 0

    def __post_init__(self) -> None:
        if self.max_tokens < 1:
            raise ValueError(f"--max-tokens={self.max_tokens}: it must be >= 1. Fix: --max-tokens 512.")
        if self.temperature < 0:
            raise ValueError(f"--temperature={self.temperature}: it must be >= 0. Fix: --temperature 1.")


@dataclass(frozen=True)
class ChatModel:
    """A loaded model and its name. Without a chat template, it reads the texts of the messages alone."""

    name: str
    model: PreTrainedModel
    tokenizer: PreTrainedTokenizerBase
    ends: frozenset[int]  # tokens that end an answer

    def stream(self, messages: Sequence[Message], decoding: Decoding, *place: int) -> Iterator[str]:
        """The text of the answer so far, after each token. `place`: of the answer in the chat; it changes the seed.

        The answer ends where the model's positions do. Raises ValueError if the messages leave no position.
        """
        import torch

        prompt, positions = self._prompt(messages), sizes_of(self.model.config).positions or sys.maxsize
        if len(prompt) >= positions:
            raise ValueError(
                f"{self.name}: the conversation has {len(prompt)} tokens, and the model reads {positions}. Fix: /new."
            )
        generator = torch.Generator().manual_seed(derive(decoding.seed, *place))
        tokens: list[int] = []
        with torch.inference_mode():
            batch = DecodingBatch([self.model], 0.0, [prompt])
        while len(tokens) < min(decoding.max_tokens, positions - len(prompt)):
            logits = batch.logits[0].cpu()  # [V]
            if decoding.temperature > 0:
                chances = (logits / decoding.temperature).softmax(-1)
                token = int(torch.multinomial(chances, 1, generator=generator))
            else:
                token = int(logits.argmax())
            if token in self.ends:
                return
            tokens.append(token)
            yield str(self.tokenizer.decode(tokens, skip_special_tokens=True)).removesuffix("�")
            with torch.inference_mode():  # not across a yield: the caller runs other code in between
                batch.step(torch.tensor([token], device=self.model.device))

    def _prompt(self, messages: Sequence[Message]) -> tuple[int, ...]:
        if self.tokenizer.chat_template is None:
            return tuple(plain_tokens(self.tokenizer, plain_text(messages[:-1], messages[-1].content)))
        return tuple(chat_tokens(self.tokenizer, messages, reply=True))


def open_chat_model(word: str) -> ChatModel:
    """The model that RUN, RUN@ROUND, a folder or a name on the hub names, on the GPU if there is one.

    Raises ValueError if it names none, or if the model cannot be loaded.
    """
    import torch

    policy = named_policy(word)
    settings: Any = {} if policy is None else read(policy.run).config["model"]
    trust = bool(settings.get("trust_remote_code"))
    folder = _folder(word) if policy is None else policy.folder
    model, tokenizer, _ = load_whole(folder, trust_remote_code=trust)
    if policy is not None and policy.round == 0:  # later policies are saved with the template of the run
        tokenizer = fixed(tokenizer, ChatTemplate(**settings["chat_template"]), key="model.chat_template")
    ends = frozenset(end_tokens(str(folder), tokenizer))
    model.to("cuda" if torch.cuda.is_available() else "cpu").eval()
    name = policy.name if policy is not None else folder.name if Path(word).exists() else word
    return ChatModel(name, model, tokenizer, ends)


def _folder(word: str) -> Path:
    folder = Path(word)
    return folder if (folder / "adapter_config.json").is_file() else Path(on_disk(Model(word)).path)
