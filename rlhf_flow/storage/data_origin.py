"""The files that prompts were read from, and how they differ between two starts of a run."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from pathlib import Path


def origin(files: Sequence[Path]) -> dict[str, object]:
    """Path, size and date of each file, for the manifest; `changed` compares them at a later start."""
    return {
        "files": [
            {"path": str(file.resolve()), "bytes": file.stat().st_size, "modified": _minute(file.stat().st_mtime)}
            for file in files
        ],
        "read": _minute(time.time()),
    }


def changed(first: Mapping[str, object], now: Mapping[str, object]) -> str:
    """How the data of two starts differ, given their manifests: rows, files, sizes, dates."""
    rows = [_section(manifest, "prompts").get("rows") for manifest in (first, now)]
    old, new = _section(first, "data"), _section(now, "data")
    differences = [f"the run began {old['read']}"] if "read" in old else []
    if rows[0] != rows[1]:
        differences.append(f"{rows[0]} rows then, {rows[1]} now")
    before, after = _by_path(old), _by_path(new)
    for path in {**before, **after}:
        if path not in before:
            differences.append(
                f"{path} was not read then" if before else f"this start reads {path}, {_file(after[path])}"
            )
        elif path not in after:
            differences.append(f"{path} is not read now")
        elif before[path] != after[path]:
            differences.append(f"{path} had {_file(before[path])}, now {_file(after[path])}")
    if before and before == after:
        differences.append(f"{', '.join(before)} did not change, so the tokenizer, chat template or version did")
    return "; ".join(differences) or "their texts differ"


def _section(manifest: Mapping[str, object], name: str) -> Mapping[str, object]:
    section = manifest.get(name)
    return section if isinstance(section, dict) else {}


def _by_path(data: Mapping[str, object]) -> dict[str, Mapping[str, object]]:
    files = data.get("files")
    return {str(file["path"]): file for file in files} if isinstance(files, list) else {}


def _file(file: Mapping[str, object]) -> str:
    return f"{file['bytes']:,} bytes of {file['modified']}"


def _minute(seconds: float) -> str:
    return time.strftime("%Y-%m-%d %H:%M", time.localtime(seconds))
