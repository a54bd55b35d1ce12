from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest
from transformers import PreTrainedTokenizerFast

from tests.support.tokenizer import tokenizer as make_tokenizer

Write = Callable[..., str]


@pytest.fixture(scope="session")
def tokenizer() -> PreTrainedTokenizerFast:
    return make_tokenizer()


@pytest.fixture
def write(tmp_path: Path) -> Write:
    """Writes rows as JSON lines (texts as they are), and returns the path."""

    def write(rows: Sequence[object], name: str = "prompts.jsonl") -> str:
        lines = [row if isinstance(row, str) else json.dumps(row) for row in rows]
        path = tmp_path / name
        path.parent.mkdir(exist_ok=True)
        path.write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")
        return str(path)

    return write


def numbered(count: int) -> list[dict[str, object]]:
    return [{"id": f"q{at}", "prompt": f"question number {at}"} for at in range(count)]
