"""The files that prompts were read from, and what changed in them between two starts of a run."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from pathlib import Path


def origin(files: Sequence[Path]) -> dict[str, object]:
    """The files that were read, for `changed` at a later start."""
    return {
        "files": [
            {"path": str(file.resolve()), "bytes": file.stat().st_size, "modified": _minute(file.stat().st_mtime)}
            for file in files
        ],
        "read": _minute(time.time()),
    }


def changed(first: Mapping[str, object], now: Mapping[str, object]) -> str:
    """What differs in the data of two starts, of their manifests: rows, files, sizes and dates."""
    rows = [_part(manifest, "prompts").get("rows") for manifest in (first, now)]
    old, new = _part(first, "data"), _part(now, "data")
    said = [f"it began {old['read']}"] if "read" in old else []
    if rows[0] != rows[1]:
        said.append(f"{rows[0]} rows then, {rows[1]} now")
    before, after = _by_path(old), _by_path(new)
    for path in {**before, **after}:
        if path not in before:
            said.append(f"{path} was not read then" if before else f"read now: {path}, {_file(after[path])}")
        elif path not in after:
            said.append(f"{path} is not read now")
        elif before[path] != after[path]:
            said.append(f"{path} had {_file(before[path])}, and has {_file(after[path])}")
    if before and before == after:
        said.append(f"{', '.join(before)} did not change, so the tokenizer, chat template or version did")
    return "; ".join(said) or "their texts differ"


def _part(manifest: Mapping[str, object], name: str) -> Mapping[str, object]:
    part = manifest.get(name)
    return part if isinstance(part, dict) else {}


def _by_path(facts: Mapping[str, object]) -> dict[str, Mapping[str, object]]:
    files = facts.get("files")
    return {str(file["path"]): file for file in files} if isinstance(files, list) else {}


def _file(file: Mapping[str, object]) -> str:
    return f"{file['bytes']:,} bytes of {file['modified']}"


def _minute(seconds: float) -> str:
    return time.strftime("%Y-%m-%d %H:%M", time.localtime(seconds))
