"""An answer's Markdown as safe HTML.

HTML in an answer is escaped, not filtered (`html` is off), so no sanitiser is needed. Links lead to the web or to mail,
and images are not loaded. Text that Markdown would hide or change is shown as written: mathematics, link references,
and answers that render to nothing.
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
    """The HTML of a text; line breaks are kept."""
    html = str(_parser().render(text))
    if _is_visible(re.sub(r"<[^>]*>", "", html)) or not text.strip() or "<hr" in html:
        return html
    # a lone "#" or "```", or invisible characters: shown as written, not as an empty answer
    shown = text.strip() if _is_visible(text) else text.encode("unicode_escape").decode("ascii")
    return f"<p><code>{escapeHtml(shown)}</code></p>\n"


def _is_visible(text: str) -> bool:
    return any(category(letter)[0] not in "CZ" for letter in text)


@cache
def _parser() -> MarkdownIt:
    parser = MarkdownIt("commonmark", {"html": False, "breaks": True})
    parser.enable(["table", "strikethrough"]).disable(["image", "reference"])
    keep_mathematics(parser)
    parser.validateLink = _is_external  # type: ignore[method-assign]  # the library's way to set it
    parser.add_render_rule("link_open", _link)
    for cell in ("th_open", "td_open"):
        parser.add_render_rule(cell, _plain)
    return parser


def _is_external(url: str) -> bool:
    return url.strip().lower().startswith(LINKS)


def _link(self: Any, tokens: Any, at: int, options: Any, env: Any) -> str:  # noqa: ANN401  # as markdown-it calls it
    tokens[at].attrs |= {"target": "_blank", "rel": "noopener noreferrer nofollow"}
    return str(self.renderToken(tokens, at, options, env))


def _plain(self: Any, tokens: Any, at: int, options: Any, env: Any) -> str:  # noqa: ANN401
    tokens[at].attrs.pop("style", None)  # column alignment: the page's policy forbids inline styles
    return str(self.renderToken(tokens, at, options, env))
