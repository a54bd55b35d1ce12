"""What a page that is passed on must not contain: absolute paths, credentials, and the queries of addresses."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import PurePosixPath, PureWindowsPath

LEFT_OUT = "(left out)"
_HUB = re.compile(r"models--([^/]+?)--([^/]+)(?:/.*)?$")  # the cache of the hub: owner and name of a model
_PATH = re.compile(r"(?<![\w:/.…~-])~?(?:/[^\s/'\"`,;:()<>|\[\]{}]+)+/?")
_WINDOWS = re.compile(r"(?<!\w)(?:[A-Za-z]:\\|\\\\)[^\s'\"`,;()<>|\[\]{}]+")
_FILE_ADDRESS = re.compile(r"\bfile:/{1,3}(?=/|[A-Za-z]:)")
_ADDRESS = re.compile(r"\b([a-z][\w+.-]*://)(?:[^\s/@]+@)?([^\s?#'\"]*)(\?[^\s#'\"]*)?")
_NAME = r"(?:api[_-]?key|access[_-]?key|secret|password|passwd|token|authorization|credentials?|bearer|cookie)"
_SECRET_KEY = re.compile(rf"(?i)(?:^|[._-])(?:key|auth|{_NAME})$")
_NO_SECRET = re.compile(r"(?i)(?:pad|eos|bos|unk|mask|sep|cls|stop)[._-]token$")
_ASSIGNED = re.compile(
    rf"(?i)(?<![A-Za-z])((?:[\w.-]*[._-])?(?:{_NAME})[\"']?\s*[=:]\s*)(?!\d+(?:\.\d+)?\b)(?:bearer\s+)?[^\s,}}]+"
)
_TOKEN = re.compile(r"\b(?:sk|hf|pk|rk|gh[pousr]|glpat|xox[abps]|AKIA|AIza)[-_]?[A-Za-z0-9_-]{16,}|\bBearer\s+\S+")
_CLOSED = re.compile(r"(?:^|\.)(?:request|headers|extra_headers|query)(?:\.|$)")  # strings below: left out unread


@dataclass(frozen=True)
class Private:
    """Text without what is private. `paths` are known absolute paths: they may contain spaces."""

    paths: tuple[str, ...] = ()

    @classmethod
    def of(cls, *documents: object) -> Private:
        """Knows the absolute paths that are values somewhere in JSON-like documents."""
        found = {text for document in documents for text in _strings(document) if _is_path(text)}
        return cls(tuple(sorted(found, key=lambda path: (-len(path), path))))

    def text(self, words: str) -> str:
        """Foreign text with each absolute path cut to its last part."""
        for path in self.paths:
            words = words.replace(path, _last(path))
        words = _FILE_ADDRESS.sub("", words)
        words = _ADDRESS.sub(lambda at: at[1] + at[2] + ("?…" if at[3] else ""), words)
        words = _WINDOWS.sub(lambda at: _last(at.group()), _PATH.sub(lambda at: _last(at.group()), words))
        return _TOKEN.sub(LEFT_OUT, _ASSIGNED.sub(rf"\1{LEFT_OUT}", words))

    def value(self, key: str, value: object) -> object:
        """A value of the configuration or of the manifest under a dotted `key`; containers are walked."""
        if isinstance(value, Mapping):
            return {str(name): self.value(f"{key}.{name}" if key else str(name), one) for name, one in value.items()}
        if isinstance(value, list | tuple):
            return [self.value(key, one) for one in value]
        if not isinstance(value, str):
            return value
        secret = _SECRET_KEY.search(key) and not _NO_SECRET.search(key)
        if value and (secret or _CLOSED.search(key)):
            return LEFT_OUT
        return _last(value) if _is_path(value) else self.text(value)


def _is_path(text: str) -> bool:
    return "\n" not in text and len(text) > 1 and bool(re.match(r"(?:~?/[^/\s]|[A-Za-z]:[\\/]|\\\\)", text))


def _last(path: str) -> str:
    """`…/name`; of the hub's cache `owner/name`."""
    hub = _HUB.search(path)
    if hub:
        return f"{hub[1]}/{hub[2]}"
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
