"""Files of JSON lines."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from pathlib import Path

from rlhf_flow.system.files import write_text


def write_lines(path: Path, rows: Iterable[Mapping[str, object]]) -> Path:
    """Write one JSON object a line, by one rename; missing folders are made. Returns the path."""
    path.parent.mkdir(parents=True, exist_ok=True)
    write_text(path, "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows))
    return path
