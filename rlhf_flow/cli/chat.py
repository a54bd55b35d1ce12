"""`rlhf-flow chat`: talk to one model, or to two and label the better answer."""

from __future__ import annotations

import shlex
from argparse import ArgumentParser
from collections.abc import Sequence
from pathlib import Path

from rich.console import Console

from rlhf_flow.chat.chat_model import Decoding, open_chat_model
from rlhf_flow.chat.conversation import converse
from rlhf_flow.chat.labels import keys_of_next_rounds
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
    run = _run(options.models)
    labels = options.labels or (run or Path()) / FILE
    logging.disable_progress_bar()
    screen = Screen(Console())
    models = [open_chat_model(word) for word in options.models]
    screen.tell("/new begins a new conversation, /quit ends the chat")
    labelled = converse(models, screen, decoding, labels=labels, system=options.system)
    if labelled:
        screen.tell(
            f"{labels}: {labelled} more {'label' if labelled == 1 else 'labels'}. Further rounds train on them too with"
        )
        command = "run ..." if run is None else f"resume {shlex.quote(str(run))} rounds=..."
        screen.tell(f"  rlhf-flow {command} {shlex.join(keys_of_next_rounds(labels))}")
    return 0


def _run(words: Sequence[str]) -> Path | None:
    """The folder of the first run among the models."""
    return next((found[0] for word in words if (found := split(word)) is not None), None)


def _parser() -> ArgumentParser:
    parser = Arguments("rlhf-flow chat")
    parser.add_argument("models", nargs="+", metavar="MODEL")
    parser.add_argument("--labels", type=Path)
    parser.add_argument("--system")
    parser.add_argument("--max-tokens", type=int, default=Decoding.max_tokens)
    parser.add_argument("--temperature", type=float, default=Decoding.temperature)
    parser.add_argument("--seed", type=int, default=Decoding.seed)
    return parser
