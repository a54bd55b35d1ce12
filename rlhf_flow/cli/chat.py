"""`rlhf-flow chat`: talk to one model, or to two and label the better answer."""

from __future__ import annotations

import shlex
from argparse import ArgumentParser
from collections.abc import Sequence
from pathlib import Path

from rich.console import Console

from rlhf_flow.chat.chat_model import Decoding, open_chat_model
from rlhf_flow.chat.conversation import converse
from rlhf_flow.chat.labels import keys_of_next_run
from rlhf_flow.chat.screen import Screen
from rlhf_flow.cli.arguments import Arguments
from rlhf_flow.storage.run_policies import split

FILE = "chat.jsonl"


def main(arguments: Sequence[str]) -> int:
    """Chat until the input ends. Raises ValueError for a mistake in the arguments, or a model that does not load."""
    from transformers.utils import logging

    options = _parser().parse_args(arguments)
    if len(options.models) > 2:
        raise ValueError(f"chat takes one or two models, got {len(options.models)}. Try rlhf-flow chat --help.")
    decoding = Decoding(options.max_tokens, options.temperature, options.seed)
    labels = options.labels or _labels(options.models)
    logging.disable_progress_bar()
    screen = Screen(Console())
    models = [open_chat_model(word) for word in options.models]
    screen.tell("/new begins a new conversation, /quit ends the chat")
    labelled = converse(models, screen, decoding, labels=labels, system=options.system)
    if labelled:
        screen.tell(
            f"{labels}: {labelled} more {'label' if labelled == 1 else 'labels'}. Each round trains on them too with"
        )
        screen.tell(f"  rlhf-flow run ... {shlex.join(keys_of_next_run(labels))}")
    return 0


def _labels(words: Sequence[str]) -> Path:
    """The file of the first run among the models, else one in this folder."""
    for word in words:
        if (found := split(word)) is not None:
            return found[0] / FILE
    return Path(FILE)


def _parser() -> ArgumentParser:
    parser = Arguments("rlhf-flow chat")
    parser.add_argument("models", nargs="+", metavar="MODEL")
    parser.add_argument("--labels", type=Path)
    parser.add_argument("--system")
    parser.add_argument("--max-tokens", type=int, default=Decoding.max_tokens)
    parser.add_argument("--temperature", type=float, default=Decoding.temperature)
    parser.add_argument("--seed", type=int, default=Decoding.seed)
    return parser
