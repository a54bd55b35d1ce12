"""Removes absolute paths, and the secrets that `system.redact` detects, from a page that may be shared."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import PurePosixPath, PureWindowsPath

from rlhf_flow.system.hub import is_hub_name
from rlhf_flow.system.redact import MARK, redact, redacted

_HUB = re.compile(r"/models--([^/]+)/snapshots(?:/.*)?$")  # the cache of the hub: owner--name, or name, of a model
_PATH = re.compile(r"(?<![\w:/.…~-])~?(?:/[^\s/'\"`,;:()<>|\[\]{}]+)+/?")
_WINDOWS = re.compile(r"(?<!\w)(?:[A-Za-z]:\\|\\\\)[^\s'\"`,;()<>|\[\]{}]+")
_FILE_ADDRESS = re.compile(r"\bfile:/{1,3}(?=/|[A-Za-z]:)")
_CLOSED = re.compile(
    r"(?:^|\.)(?:request|headers|extra_headers)(?:\.|$)"
)  # strings below may identify the user: left out


@dataclass(frozen=True)
class Private:
    """Removes private parts from text.

    `known`: absolute paths with spaces, whose end no pattern can find, and their replacements.
    """

    known: tuple[tuple[str, str], ...] = ()

    @classmethod
    def of(cls, *documents: object) -> Private:
        """Collects the absolute paths with spaces from JSON-like documents."""
        found = {text for document in documents for text in _strings(document) if _is_path(text) and " " in text}
        above = {str(parent) for text in found for parent in PurePosixPath(text).parents if " " in str(parent)}
        known = {**dict.fromkeys(above, "…"), **{text: _last(text) for text in found}}
        return cls(tuple(sorted(known.items(), key=lambda one: (-len(one[0]), one))))

    def text(self, words: str) -> str:
        """Untrusted text with each absolute path shortened to its last part."""
        words = redacted(words)
        for path, last in self.known:
            words = words.replace(path, last)
        words = _PATH.sub(lambda at: _last(at.group()), _FILE_ADDRESS.sub("", words))
        return _WINDOWS.sub(lambda at: _last(at.group()), words)

    def path(self, value: str) -> str:
        """A path shortened to its last part, `…/name`; a name on the hub as it is."""
        return self.text(value if is_hub_name(value) else _last(value))

    def value(self, key: str, value: object) -> object:
        """A value of the configuration or of the manifest under a dotted `key`; containers are walked."""
        return self._without_paths(key, redact(value, key.rpartition(".")[2]))

    def _without_paths(self, key: str, value: object) -> object:
        if isinstance(value, Mapping):
            named = ((f"{key}.{name}" if key else str(name), str(name), one) for name, one in value.items())
            return {name: self._without_paths(full, one) for full, name, one in named}
        if isinstance(value, list | tuple):
            return [self._without_paths(key, one) for one in value]
        if not isinstance(value, str):
            return value
        if value and _CLOSED.search(key):
            return MARK
        return _last(value) if _is_path(value) else self.text(value)


def _is_path(text: str) -> bool:
    return "\n" not in text and len(text) > 1 and bool(re.match(r"(?:~?/[^/\s]|[A-Za-z]:[\\/]|\\\\)", text))


def _last(path: str) -> str:
    """`…/name`; of the hub's cache the name on the hub."""
    hub = _HUB.search(path)
    if hub:
        return hub[1].replace("--", "/")
    name = PureWindowsPath(path).name if "\\" in path else PurePosixPath(path).name
    return f"…/{name}" if name else "…"


def _strings(document: object) -> Iterator[str]:
    if isinstance(document, str):
        yield document
    children: Iterable[object] = ()
    if isinstance(document, Mapping):
        children = document.values()
    elif isinstance(document, list | tuple):
        children = document
    for child in children:
        yield from _strings(child)
