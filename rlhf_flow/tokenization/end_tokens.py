"""The tokens that end a response."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING

from rlhf_flow.tokenization.chat_template import chat_text, encode
from rlhf_flow.types import Message

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

TOKENIZER, GENERATION, CONFIG, TEMPLATE = "tokenizer", "generation_config.json", "config.json", "chat template"


def named_ends(path: str, tokenizer: PreTrainedTokenizerBase, *, revision: str | None = None) -> dict[int, list[str]]:
    """The tokens that end a response, and where the checkpoint `path` (folder or hub name) names each.

    They are the tokenizer's EOS, those of generation_config.json and config.json (Llama 3 lists further ones), and the
    token that ends an assistant's turn in the chat template. Of config.json only special tokens count: many have the
    default of their architecture, which is an ordinary token of this tokenizer.
    """
    special = special_tokens(tokenizer)
    found: dict[int, list[str]] = {}

    def name(where: str, *tokens: int | None) -> None:
        for token in tokens:
            if token is not None and where not in found.setdefault(token, []):
                found[token].append(where)

    name(TOKENIZER, tokenizer.eos_token_id)
    name(GENERATION, *_listed(_read(path, GENERATION, revision)))
    about = _read(path, CONFIG, revision)
    text = about.get("text_config")
    for each in (about, text if isinstance(text, dict) else {}):
        name(CONFIG, *(token for token in _listed(each) if token in special))
    name(TEMPLATE, turn_end(tokenizer))
    return dict(sorted(found.items()))


def end_tokens(path: str, tokenizer: PreTrainedTokenizerBase, *, revision: str | None = None) -> list[int]:
    """The tokens of `named_ends`. Raises ValueError if there are none."""
    if not (found := named_ends(path, tokenizer, revision=revision)):
        raise ValueError(
            f"model.path={path}: neither its tokenizer nor its generation_config.json, config.json and chat template "
            "names an end token, so no response could end. Fix: set eos_token in tokenizer_config.json."
        )
    return list(found)


def end_of_answer(tokenizer: PreTrainedTokenizerBase, *, chat: bool) -> int | None:
    """The token that ends a candidate: for chats the one that ends a turn in the template, else EOS."""
    end = turn_end(tokenizer) if chat else None
    return tokenizer.eos_token_id if end is None else end


def turn_end(tokenizer: PreTrainedTokenizerBase) -> int | None:
    """The special token that the chat template writes after an assistant's message, ignoring white space.

    Such as <end_of_turn> (Gemma), <|end|> (Phi) and <|im_end|> (ChatML), which may differ from EOS. None without a
    template, or if it writes no special token there.
    """
    if tokenizer.chat_template is None:
        return None
    try:
        text = chat_text(tokenizer, [Message("user", "a"), Message("assistant", "qxj")], reply=False)
    except ValueError:  # the template rejects such conversations
        return None
    after = encode(tokenizer, text.rpartition("qxj")[2].lstrip()) if "qxj" in text else []
    return after[0] if after and after[0] in special_tokens(tokenizer) else None


def special_tokens(tokenizer: PreTrainedTokenizerBase) -> set[int]:
    """Tokens that represent no text."""
    added = {token for token, about in tokenizer.added_tokens_decoder.items() if about.special}
    return added | set(tokenizer.all_special_ids)


def _listed(about: dict[str, object]) -> list[int]:
    ends = about.get("eos_token_id")
    return [ends] if isinstance(ends, int) else [*ends] if isinstance(ends, list) else []


def _read(path: str, name: str, revision: str | None) -> dict[str, object]:
    """A JSON file of a checkpoint; empty if it does not exist."""
    from transformers.utils import cached_file

    folder = Path(path)
    file = (
        folder / name
        if folder.is_dir()
        else cached_file(path, name, revision=revision, _raise_exceptions_for_missing_entries=False)
    )
    if file is None or not Path(file).is_file():
        return {}
    about = json.loads(Path(file).read_text())
    return about if isinstance(about, dict) else {}
