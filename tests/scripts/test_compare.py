"""What the comparison of recipes makes of runs that have ended."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from compare import WORLDS, Run, World, chosen, table

ROOT = Path(__file__).parents[2]


def ended(
    world: World, recipe: str, lr: float, seed: int, folder: Path, *, rounds: int | None = None, **end: float
) -> Run:
    """A run that left metrics, of all its rounds or of some."""
    run = Run(world, recipe, lr, seed, folder)
    run.root.mkdir(parents=True)
    last = {f"eval/{key}": value for key, value in end.items()}
    lines = [{"judge/queries": 10.0} for _ in range(world.rounds if rounds is None else rounds)] + [last]
    (run.root / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    return run


def figures(win_rate: float) -> dict[str, float]:
    return {"win_rate": win_rate, "win_rate_low": win_rate - 0.1, "win_rate_high": win_rate + 0.1} | dict.fromkeys(
        ("reward", "kl", "length"), 1.0
    )


def test_the_learning_rate_that_ends_best_is_chosen_among_the_runs_that_ended(tmp_path: Path) -> None:
    better, worse = WORLDS["sandbox"], WORLDS["cyclic"]
    tried = [ended(better, "xpo", lr, 0, tmp_path / "a", **figures(rate)) for lr, rate in ((1e-4, 0.6), (3e-4, 0.8))]
    half = ended(better, "xpo", 1e-3, 0, tmp_path / "a", rounds=1, **figures(0.9))
    assert chosen([*tried, half]) == {"xpo": 3e-4}
    gaps = [ended(worse, "inpo", lr, 0, tmp_path / "b", gap=gap) for lr, gap in ((1e-4, 0.1), (3e-4, 0.2))]
    assert chosen(gaps) == {"inpo": 1e-4}  # of a gap the least
    assert chosen([half]) == {}


def test_a_row_has_the_median_and_the_whole_spread_and_the_best_recipe_comes_first(tmp_path: Path) -> None:
    world = WORLDS["sandbox"]
    runs = [
        ended(world, recipe, 1e-4, seed, tmp_path, **figures(rate + 0.01 * seed))
        for recipe, rate in (("dno", 0.6), ("xpo", 0.7))
        for seed in (1, 2, 3)
    ]
    lines = table(world, runs, {"dno": 1e-4, "xpo": 1e-4}).splitlines()
    assert [line.split("|")[1].strip() for line in lines[2:]] == ["`xpo`", "`dno`"]
    assert "| 0.720 (0.610 to 0.830) |" in lines[2]
    assert lines[2].endswith(f"| {10 * world.rounds} |")


@pytest.mark.parametrize(("name", "recipe", "batch"), [("sandbox", "online_dpo", 128), ("cyclic", "dno", 42)])
def test_a_batch_is_what_the_queries_allow(
    name: str, recipe: str, batch: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A query is an answer under a judge of numbers, and two answers under a judge of preferences."""
    from rlhf_flow.sandbox.world import locate

    monkeypatch.setenv("RLHF_FLOW_HOME", str(tmp_path))
    locate().root.mkdir()
    locate().facts.write_text("{}")
    assert f"prompts.batch={batch}" in Run(WORLDS[name], recipe, 1e-4, 0, tmp_path).overrides
