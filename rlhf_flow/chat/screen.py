"""The terminal of a chat: answers as they grow, one below the other or side by side, and single keys."""

from __future__ import annotations

import sys
from collections.abc import Collection, Iterable, Sequence
from itertools import zip_longest

from rich.columns import Columns
from rich.console import Console, RenderableType
from rich.live import Live
from rich.panel import Panel
from rich.text import Text

from rlhf_flow.system.visible_text import visible

QUESTION = "[bold]Which is better?[/] 1 left · 2 right · = tie · Enter no label "
NO_LABEL = ("", "\n", "\r", "\x04")  # \x04: Ctrl-D, which a terminal without line editing passes on


class Screen:
    """Reads lines and keys from stdin. Control characters of models are shown as symbols."""

    def __init__(self, console: Console) -> None:
        self.console = console

    def ask(self) -> str | None:
        """The user's next line; None at the end of the input and at Ctrl-C."""
        try:
            return self.console.input("[bold green]› [/]").strip()
        except (EOFError, KeyboardInterrupt):
            return None

    def tell(self, line: str) -> None:
        self.console.print(Text(line, style="dim"), soft_wrap=True)

    def show(self, names: Sequence[str], streams: Sequence[Iterable[str]]) -> list[str]:
        """Show the answers of the models while they grow, in turns of one token; return the final texts.

        Ctrl-C ends the answers as they are.
        """
        texts = [""] * len(streams)
        with Live(self._page(names, texts), console=self.console, transient=True, refresh_per_second=12) as live:
            try:
                for step in zip_longest(*streams):
                    texts = [old if new is None else new for old, new in zip(texts, step, strict=True)]
                    live.update(self._page(names, texts))
            except KeyboardInterrupt:
                pass
        self.console.print(self._page(names, texts))
        return texts

    def _page(self, names: Sequence[str], texts: Sequence[str]) -> RenderableType:
        width = self.console.width // len(names) - (len(names) > 1)
        panels = [
            Panel(Text(visible(text)), title=Text(name), title_align="left", width=width)
            for name, text in zip(names, texts, strict=True)
        ]
        return Columns(panels, padding=(0, 1), expand=False)

    def choose(self, keys: Collection[str]) -> str | None:
        """One of the keys, or None for Enter, Ctrl-C and the end of the input."""
        self.console.print(QUESTION, end="")
        try:
            while (key := read_key()) not in (*keys, *NO_LABEL):
                pass
        except KeyboardInterrupt:
            key = ""
        chosen = key if key in keys else None
        self.console.print(Text(chosen or "-"))
        return chosen


def read_key() -> str:
    """The next key of a terminal, without Enter. Of other input, the first letter of the next line."""
    if not sys.stdin.isatty():
        return sys.stdin.readline()[:1]
    import termios
    import tty

    descriptor = sys.stdin.fileno()
    before = termios.tcgetattr(descriptor)
    try:
        tty.setcbreak(descriptor)  # Ctrl-C still interrupts
        return sys.stdin.read(1)
    finally:
        termios.tcsetattr(descriptor, termios.TCSADRAIN, before)
