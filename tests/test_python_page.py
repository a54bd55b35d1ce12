"""The page on Python, block by block in one process, as a notebook user pastes it."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

import rlhf_flow as rf
from tests.support import tiny

pytestmark = pytest.mark.slow

PAGE = Path(__file__).parents[1] / "docs/how-to/python.md"
SHORT = {"answers.max_tokens": 16, "selector.truncated": "keep"}  # the tiny model's answers have no end
BLOCKS = re.findall(r"^```python\n(.*?)^```", PAGE.read_text(encoding="utf-8"), flags=re.DOTALL | re.MULTILINE)


@pytest.fixture(scope="module")
def pasted(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """The names after all blocks but the last, which needs an objective of the reader."""
    folder = tmp_path_factory.mktemp("page")
    model = str(tiny.policy(folder / "model"))
    run = rf.run

    def short(*given: Any, keys: Mapping[str, object] | None = None, **named: Any) -> rf.Run:
        return run(*given, keys={**(keys or {}), **SHORT}, **named)

    names: dict[str, Any] = {"__name__": "__main__"}
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        patch.setattr(rf, "run", short)
        for number, block in enumerate(BLOCKS[:-1], start=1):
            exec(compile(block.replace("my/model", model), f"block {number}", "exec"), names)
    return names


def test_the_runs_of_the_page_end_and_resume(pasted: dict[str, Any]) -> None:
    assert len(BLOCKS[0].splitlines()) <= 13
    assert list(pasted["run"].metrics.index) == [0, 1, 2, 3, 4, 5, 6]
    assert (pasted["run"].folder / "final.json").exists()
