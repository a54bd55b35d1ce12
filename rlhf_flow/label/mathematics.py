"""Keeps mathematics in Markdown as written: `$…$`, `$$…$$`, `\\(…\\)`, `\\[…\\]`, environments.

Markdown would drop the backslashes and read underscores and stars as emphasis. Formulas are not typeset: a renderer
that gets one wrong would make annotators judge a text that no policy wrote.
"""

from __future__ import annotations

import re
from typing import Any

from markdown_it import MarkdownIt
from markdown_it.common.utils import escapeHtml
from markdown_it.rules_block import StateBlock
from markdown_it.rules_inline import StateInline
from markdown_it.rules_inline.emphasis import tokenize as emphasis

MOST = 2000  # characters of an inline formula; bounds the search for its end
INLINE = re.compile(
    rf"\$\$.{{1,{MOST}}}?\$\$|\$(?=\S)(?:\\.|[^$\\\n]){{1,{MOST}}}?(?<=\S)\$(?!\d)"
    rf"|\\\(.{{1,{MOST}}}?\\\)|\\\[.{{1,{MOST}}}?\\\]",
    re.DOTALL,
)
BLOCK = re.compile(r" {0,3}(?:(\$\$)|(\\\[)|\\begin\{([a-zA-Z]+\*?)\})")
ASCII_WORD = re.compile(r"[A-Za-z0-9]")


def keep_mathematics(parser: MarkdownIt) -> None:
    """Make a parser keep formulas, and underscores and stars inside words."""
    parser.inline.ruler.before("escape", "mathematics", _inline)
    parser.inline.ruler.at("emphasis", _emphasis)
    parser.block.ruler.before("fence", "mathematics", _block, {"alt": ["paragraph", "reference", "blockquote", "list"]})
    parser.add_render_rule("math_inline", _render_inline)
    parser.add_render_rule("math_block", _render_block)


def _inline(state: StateInline, silent: bool) -> bool:
    found = INLINE.match(state.src, state.pos, state.posMax) if state.src[state.pos] in "$\\" else None
    if found is None:
        return False
    if not silent:
        state.push("math_inline", "", 0).content = found[0]
    state.pos = found.end()
    return True


def _emphasis(state: StateInline, silent: bool) -> bool:
    """No emphasis by underscores (`__init__`, x_1 and y_2), nor by a star inside a word (2*3*4)."""
    if state.src[state.pos] == "_":
        return False
    around = state.src[max(0, state.pos - 1) : state.pos], state.src[state.pos + 1 : state.pos + 2]
    if state.src[state.pos] == "*" and all(map(ASCII_WORD.match, around)):
        return False
    return emphasis(state, silent)


def _block(state: StateBlock, start: int, end: int, silent: bool) -> bool:
    """A formula on its own lines, from its first delimiter to its last."""
    opened = BLOCK.match(_line(state, start)) if state.sCount[start] - state.blkIndent < 4 else None
    if opened is None:
        return False
    closing = "$$" if opened[1] else r"\]" if opened[2] else rf"\end{{{opened[3]}}}"
    for line in range(start, end):
        text = _line(state, line)[opened.end() if line == start else 0 :].rstrip()
        if closing in text:
            if not text.endswith(closing) or text.count(closing) > 1:
                return False  # a paragraph that contains a formula
            break
    else:
        return False
    if not silent:
        token = state.push("math_block", "", 0)
        token.content = state.getLines(start, line + 1, state.blkIndent, False)
        token.map = [start, line + 1]
        state.line = line + 1
    return True


def _line(state: StateBlock, line: int) -> str:
    return state.src[state.bMarks[line] + state.tShift[line] : state.eMarks[line]]


def _render_inline(self: Any, tokens: Any, at: int, options: Any, env: Any) -> str:  # noqa: ANN401  # as markdown-it calls it
    return f'<span class="math">{escapeHtml(tokens[at].content)}</span>'


def _render_block(self: Any, tokens: Any, at: int, options: Any, env: Any) -> str:  # noqa: ANN401
    return f'<div class="math">{escapeHtml(tokens[at].content)}</div>\n'
