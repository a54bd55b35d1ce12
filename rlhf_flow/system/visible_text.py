"""Untrusted text for reading: characters that hide or reorder text are spelt out."""

from __future__ import annotations

import re

HIDDEN = re.compile(  # control characters, lone surrogates, and characters that reorder or hide text
    "[\x00-\x08\x0b-\x1f\x7f-\x9f\u2028-\u202e\u2060-\u206f\ufeff\ufff9-\ufffb\ud800-\udfff\U000e0000-\U000e007f]"
)


def visible(text: str) -> str:
    """Untrusted text with control and direction characters spelt out."""
    return HIDDEN.sub(_spelt, text.replace("\r\n", "\n"))


def _spelt(match: re.Match[str]) -> str:
    code = ord(match.group())
    if code < 0x20:
        return chr(0x2400 + code)  # the symbol for it, such as ␛
    return "�" if 0xD800 <= code <= 0xDFFF else f"⟨U+{code:04X}⟩"


def clipped(text: str, limit: int) -> str:
    """At most `limit` characters, and the number of omitted ones."""
    return text if len(text) <= limit else f"{text[:limit]}… ({len(text) - limit:,} more characters)"
