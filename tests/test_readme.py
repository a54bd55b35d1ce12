"""README has the loop itself, and the page of results names the world that its figures are from."""

from __future__ import annotations

from pathlib import Path

from rlhf_flow.sandbox.world import frozen_hash

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")
RESULTS = (ROOT / "docs/reference/results.md").read_text(encoding="utf-8")


def test_the_loop_is_the_loop() -> None:
    source = (ROOT / "rlhf_flow/loop.py").read_text(encoding="utf-8")
    assert source[source.index("def rounds(") :].rstrip() in README


def test_the_hash_of_the_frozen_world_is_the_one_that_is_quoted() -> None:
    assert frozen_hash() in RESULTS
