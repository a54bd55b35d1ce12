"""Prompts that are given as values: they become a file in the run's folder, so that the run can be resumed."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from rlhf_flow.config.schema import RunConfig
from rlhf_flow.system.errors import brief, reason

Rows = Sequence[Mapping[str, object]]
PLACE = "rows"  # prompts.path until the run's folder is known
FEW = 128  # rows, below which a share of 5 % holds too few prompts out, and the default batch may not be filled
MOST = 64  # prompts a round, as of prompts.batch


def rows(prompts: Any) -> Rows:  # noqa: ANN401  # checked here
    """Texts, mappings, a Dataset of Hugging Face or a DataFrame as rows. Raises ValueError for anything else."""
    if isinstance(prompts, Mapping):
        raise ValueError(
            f"prompts: got a mapping of {', '.join(map(str, prompts))}. Fix: one of its values, as prompts['train']."
        )
    if type(prompts).__name__ == "DataFrame":
        prompts = prompts.to_dict("records")  # without importing pandas
    if not isinstance(prompts, Iterable) or isinstance(prompts, bytes):
        raise ValueError(f"prompts={brief(prompts)}: expected a file or rows. Fix: prompts=['a text', 'another'].")
    found = [{"prompt": one} if isinstance(one, str) else one for one in prompts]
    for number, one in enumerate(found, start=1):
        if not isinstance(one, Mapping):
            raise ValueError(f"prompts: row {number} is {one!r:.80}. Fix: a text, or a mapping with a column `prompt`.")
    if not found:
        raise ValueError("prompts: there are no rows. Fix: give at least two.")
    return [dict(one) for one in found if isinstance(one, Mapping)]


def keys(rows: Rows) -> dict[str, object]:
    """The keys of the prompts. Of few rows a quarter is held out, and every round asks the others."""
    source: dict[str, object] = {"prompts": "jsonl", "prompts.path": PLACE}
    if len(rows) >= FEW:
        return source
    held_out = len(rows) // 4 or min(1, len(rows) - 1)
    return {**source, "prompts.held_out": held_out, "prompts.batch": min(MOST, len(rows) - held_out)}


def written(config: RunConfig, rows: Rows) -> RunConfig:
    """The configuration with the path of the file that holds the rows; equal rows have the same file.

    Raises ValueError if a value is not one of JSON.
    """
    try:
        text = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
    except TypeError as error:
        raise ValueError(f"prompts: {reason(error)}. Fix: rows of texts, numbers, lists and mappings.") from error
    name = hashlib.sha256(text.encode()).hexdigest()[:12]
    path = Path(config.run_dir).resolve() / "prompts" / f"{name}.jsonl"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="utf-8")
    return replace(config, prompts=replace(config.prompts, path=str(path)))
