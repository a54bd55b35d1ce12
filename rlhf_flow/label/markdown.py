"""An answer's Markdown as HTML that can do no harm.

The parser writes every tag itself: HTML in an answer is escaped, not filtered (`html` is off), so there is nothing left
that a sanitiser would have to find. Links lead to the web or to mail, and images are not loaded. What Markdown would
hide or change is shown as it was written: mathematics, link references, and what leaves nothing to be seen.
"""

from __future__ import annotations

import re
from functools import cache
from typing import Any
from unicodedata import category

from markdown_it import MarkdownIt
from markdown_it.common.utils import escapeHtml

from rlhf_flow.label.mathematics import keep_mathematics

LINKS = ("http://", "https://", "mailto:")


def to_html(text: str) -> str:
    """Answers are judged as they were written: a line break stays one."""
    html = str(_parser().render(text))
    if _visible(re.sub(r"<[^>]*>", "", html)) or not text.strip() or "<hr" in html:
        return html
    # A lone "#" or "```", or invisible characters: what is there is shown, and not an empty answer.
    shown = text.strip() if _visible(text) else text.encode("unicode_escape").decode("ascii")
    return f"<p><code>{escapeHtml(shown)}</code></p>\n"


def _visible(text: str) -> bool:
    return any(category(letter)[0] not in "CZ" for letter in text)


@cache
def _parser() -> MarkdownIt:
    parser = MarkdownIt("commonmark", {"html": False, "breaks": True})
    parser.enable(["table", "strikethrough"]).disable(["image", "reference"])
    keep_mathematics(parser)
    parser.validateLink = _leads_elsewhere  # type: ignore[method-assign]  # the library's way to set it
    parser.add_render_rule("link_open", _link)
    for cell in ("th_open", "td_open"):
        parser.add_render_rule(cell, _plain)
    return parser


def _leads_elsewhere(url: str) -> bool:
    return url.strip().lower().startswith(LINKS)


def _link(self: Any, tokens: Any, at: int, options: Any, env: Any) -> str:  # noqa: ANN401  # as markdown-it calls it
    tokens[at].attrs |= {"target": "_blank", "rel": "noopener noreferrer nofollow"}
    return str(self.renderToken(tokens, at, options, env))


def _plain(self: Any, tokens: Any, at: int, options: Any, env: Any) -> str:  # noqa: ANN401
    tokens[at].attrs.pop("style", None)  # of an aligned column: the page allows no styles but its own
    return str(self.renderToken(tokens, at, options, env))
