"""The meaning of each key: the comment after its field, in the source of its class."""

from __future__ import annotations

import ast
import inspect
import re
import tokenize
from collections.abc import Mapping
from dataclasses import is_dataclass
from functools import cache
from io import StringIO
from types import ModuleType


def meanings(part: type) -> Mapping[str, str]:
    """The comment after each field of a dataclass, including inherited fields; a field without one is left out."""
    found: dict[str, str] = {}
    for one in reversed(part.__mro__):
        if is_dataclass(one) and (module := inspect.getmodule(one)) is not None:
            found |= _comments(module).get(one.__name__, {})
    return found


def values(part: type, key: str) -> list[str]:
    """The values of a key whose comment begins with them, as `refuse | cut (what that is) | drop`; else none."""
    comment = re.sub(r" \([^)]*\)", "", meanings(part).get(key, ""))
    listed = re.match(r"\w+( \| \w+)+", comment)
    return listed[0].split(" | ") if listed else []


@cache
def _comments(module: ModuleType) -> Mapping[str, Mapping[str, str]]:
    """The comments by class and field; empty for a module without source, such as a notebook."""
    try:
        source = inspect.getsource(module)
    except (OSError, TypeError):
        return {}
    tokens = tokenize.generate_tokens(StringIO(source).readline)
    behind = {token.start[0]: token.string.lstrip("# ") for token in tokens if token.type == tokenize.COMMENT}
    return {
        node.name: {
            line.target.id: behind[at]
            for line in node.body
            if isinstance(line, ast.AnnAssign) and isinstance(line.target, ast.Name)
            for at in range(line.lineno, (line.end_lineno or line.lineno) + 1)
            if at in behind and not behind[at].startswith(("type:", "noqa"))
        }
        for node in ast.parse(source).body
        if isinstance(node, ast.ClassDef)
    }
