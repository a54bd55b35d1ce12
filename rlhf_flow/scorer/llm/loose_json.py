"""JSON as language models write it: with comments, trailing commas, single quotes, bare keys and Python's constants.

A library that repairs anything (json-repair) also makes objects of text that is none, and half objects whole.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator

TOKEN = re.compile(
    r"""(?P<string>"(?:[^"\\\n]|\\.)*")|(?P<single>'(?:[^'\\\n]|\\.)*')|(?P<comment>//[^\n]*|/\*.*?\*/|\#[^\n]*)"""
    r"""|(?P<comma>,(?=(?:\s|//[^\n]*|/\*.*?\*/)*[}\]]))|(?P<key>[A-Za-z_][\w\-]*(?=\s*:))|(?P<constant>True"""
    r"""|False|None)\b"""
    r"""|(?P<fraction>-?\d+(?:\.\d+)?\s*/\s*\d+(?:\.\d+)?)|(?P<open>[{\[])|(?P<close>[}\]])|(?P<other>[\w.+\-]+|.)""",
    re.DOTALL,
)
CONSTANTS = {"True": "true", "False": "false", "None": "null"}
LONGEST = 100_000  # characters of one value; a judge's reply is shorter
DEEPEST = 20  # levels


def values(text: str) -> Iterator[tuple[object, int, int]]:
    """The outermost objects and lists in a text that are complete, each with its first and last place."""
    at, tries = 0, 0
    while (begin := _first(text, at)) >= 0 and tries < 200:
        read = _value(text, begin)
        if read is None:
            at, tries = begin + 1, tries + 1
        else:
            value, at = read
            yield value, begin, at


def _first(text: str, at: int) -> int:
    found = re.compile(r"[{\[]").search(text, at)
    return -1 if found is None else found.start()


def _value(text: str, begin: int) -> tuple[object, int] | None:
    """The value that begins there, and where it ends; None if it is not complete, or none."""
    written, depth = [], 0
    for token in TOKEN.finditer(text, begin, begin + LONGEST):
        kind, piece = token.lastgroup, token[0]
        depth += (kind == "open") - (kind == "close")
        if depth > DEEPEST:
            return None
        written.append(_strict(kind, piece))
        if depth == 0:
            try:
                return json.loads("".join(written)), token.end()
            except (ValueError, RecursionError):
                return None
    return None


def _strict(kind: str | None, piece: str) -> str:
    if kind in ("comment", "comma"):
        return " "
    if kind == "single":
        return json.dumps(piece[1:-1].replace("\\'", "'"))
    if kind in ("key", "fraction"):
        return json.dumps(piece)
    return CONSTANTS.get(piece, piece)
