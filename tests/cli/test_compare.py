"""`rlhf-flow compare`: what it runs, and the table of the runs that finished."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import time
from argparse import Namespace
from collections.abc import Callable
from pathlib import Path

import pytest

from rlhf_flow.cli.compare import Run, commands, main, prompts_per_round, run_all, table, tuned, widened
from tests.support.configured import configured

ROUNDS = 4


def ended(recipe: str, lr: float | None, seed: int, folder: Path, *, rounds: int = ROUNDS, **end: float) -> Run:
    """A run that left metrics, of all its rounds or of some."""
    run = Run(recipe, lr, seed, ROUNDS, folder)
    run.run_dir.mkdir(parents=True)
    last = {f"eval/{key}": value for key, value in end.items()}
    lines = [{"judge/queries": 10.0} for _ in range(rounds)] + [last]
    (run.run_dir / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    return run


def figures(win_rate: float) -> dict[str, float]:
    return {"win_rate": win_rate, "win_rate_low": win_rate - 0.1, "win_rate_high": win_rate + 0.1, "kl": 1.0}


def options(queries: int = 4096) -> Namespace:
    return Namespace(queries=queries, config_dir=[])


def test_the_learning_rate_that_ends_best_is_chosen_among_the_runs_that_ended(tmp_path: Path) -> None:
    tried = [ended("xpo", lr, 0, tmp_path / "a", **figures(rate)) for lr, rate in ((1e-4, 0.6), (3e-4, 0.8))]
    half = ended("xpo", 1e-3, 0, tmp_path / "a", rounds=1, **figures(0.9))
    assert tuned([*tried, half], "eval/win_rate", lower=False) == {"xpo": 3e-4}
    gaps = [ended("inpo", lr, 0, tmp_path / "b", gap=gap) for lr, gap in ((1e-4, 0.1), (3e-4, 0.2))]
    assert tuned(gaps, "eval/gap", lower=True) == {"inpo": 1e-4}
    assert tuned([half], "eval/win_rate", lower=False) == {}


@pytest.mark.parametrize(
    ("best", "grid"),
    [(1e-4, [3e-5, 1e-4, 3e-4, 1e-3]), (3e-4, [1e-4, 3e-4, 1e-3]), (1e-3, [1e-4, 3e-4, 1e-3, 3e-3])],
)
def test_a_grid_whose_edge_is_the_best_is_widened_there(best: float, grid: list[float]) -> None:
    assert widened([1e-4, 3e-4, 1e-3], best) == grid


@pytest.mark.parametrize("lower", [False, True])
def test_a_row_has_the_median_and_the_spread_and_the_best_recipe_comes_first(lower: bool, tmp_path: Path) -> None:
    runs = [
        ended(recipe, 1e-4, seed, tmp_path, **figures(rate + 0.01 * seed))
        for recipe, rate in (("dno", 0.6), ("xpo", 0.7))
        for seed in (1, 2, 3)
    ]
    head, _, *rows = table(runs, "eval/win_rate", lower=lower).splitlines()
    assert [line.split("|")[1].strip() for line in rows] == (["`dno`", "`xpo`"] if lower else ["`xpo`", "`dno`"])
    assert head == "| recipe | learning rate | win rate | kl | queries |"
    (xpo,) = (line for line in rows if "xpo" in line)
    assert "| 0.720 (0.610 to 0.830) | 1 (1 to 1) |" in xpo
    assert xpo.endswith(f"| {10 * ROUNDS} |")


def test_a_batch_is_what_the_queries_allow() -> None:
    """A query is a rated answer, or a compared pair if preferences can be cyclic."""
    rated = configured(**{"sampler.draws.0.n": 4})
    assert prompts_per_round(rated, 64 * rated.rounds) == 16
    compared = configured(scorer="judge", **{"scorer.model": "any", "sampler.draws.0.n": 4})
    assert prompts_per_round(compared, 64 * compared.rounds) == 64 // 6
    with pytest.raises(ValueError, match=r"--queries=3: .* needs 4"):
        prompts_per_round(rated, 3)


def test_only_seeds_without_a_finished_run_are_started(tmp_path: Path) -> None:
    ended("online_dpo", None, 1, tmp_path, **figures(0.5))
    runs = [Run(recipe, None, seed, ROUNDS, tmp_path) for recipe in ("online_dpo", "xpo") for seed in (1, 2)]
    keys = ["model.path=m", "prompts.path=p", "scorer.path=s", f"rounds={ROUNDS}"]
    (_, dpo), (_, xpo) = commands(runs, keys, options())  # the runs of a recipe share a process
    assert [command[-2:] for command in dpo] == [["seed=2", f"run_dir={tmp_path}/online_dpo-seed-2"]]
    assert [command[-1] for command in xpo] == [f"run_dir={tmp_path}/xpo-seed-{seed}" for seed in (1, 2)]
    assert not any("optimizer.lr" in word for word in dpo[0])


def test_one_learning_rate_is_not_tuned(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    ended("xpo", 1e-4, 1, tmp_path, **figures(0.5))  # and no run with the seed that tunes
    keys = ["model.path=m", "prompts.path=p", "scorer.path=s", f"rounds={ROUNDS}"]
    flags = ["--queries=64", "--recipes", "xpo", "--lrs", "1e-4", "--seeds", "1", "--folder", str(tmp_path)]
    assert main([*flags, *keys]) == 0
    assert "| `xpo` | 0.0001 | 0.500 (0.400 to 0.600) |" in capsys.readouterr().out


def test_a_key_of_the_user_replaces_one_that_compare_sets(tmp_path: Path) -> None:
    keys = ["model.path=m", "prompts.path=p", "scorer.path=s", f"rounds={ROUNDS}"]
    ((_, (command,)),) = commands([Run("xpo", None, 1, ROUNDS, tmp_path)], [*keys, "evaluate.every=2"], options())
    assert [word for word in command if word.startswith("evaluate.every=")] == ["evaluate.every=4", "evaluate.every=2"]


@pytest.mark.parametrize(
    ("arguments", "message"), [(["rounds=1"], "--queries"), (["--recipes", "none"], "invalid choice")]
)
def test_a_mistake_is_refused(arguments: list[str], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        main(arguments)


def test_a_metric_that_no_run_measures_is_refused(tmp_path: Path) -> None:
    run = ended("xpo", 1e-4, 1, tmp_path, win_rate=0.5, win_rate_low=0.4, win_rate_high=0.6)
    with pytest.raises(ValueError, match=r"--metric=eval/gap: the runs of xpo .* one of eval/win_rate, "):
        table([run], "eval/gap", lower=True)


def test_runs_at_other_queries_are_not_mixed(tmp_path: Path) -> None:
    run = ended("xpo", 1e-4, 1, tmp_path, win_rate=0.5, win_rate_low=0.4, win_rate_high=0.6)
    (run.run_dir / "config.yaml").write_text("prompts: {batch: 7}\n")
    keys = ["model.path=m", "prompts.path=p", "scorer.path=s", f"rounds={ROUNDS}"]
    flags = ["--recipes", "xpo", "--lrs", "1e-4", "--seeds", "1", "--folder", str(tmp_path)]
    n = 7 * ROUNDS * 2
    assert main([f"--queries={n}", *flags, *keys]) == 0
    with pytest.raises(ValueError, match=rf"xpo-lr-0.0001-seed-1 has prompts.batch=7, --queries={2 * n} gives 14"):
        main([f"--queries={2 * n}", *flags, *keys])


def test_no_run_is_started_after_an_interrupted_one(monkeypatch: pytest.MonkeyPatch) -> None:
    ended = {"a": 1, "b": 130, "c": 0}
    seen: list[str] = []
    monkeypatch.setattr("rlhf_flow.cli.compare.end_with_parent", lambda: None)
    monkeypatch.setattr("rlhf_flow.cli.main.main", lambda arguments: seen.append(arguments[1]) or ended[arguments[1]])
    assert run_all(json.dumps([["a"], ["c"]])) == 1
    assert run_all(json.dumps([["a"], ["b"], ["c"]])) == 130
    assert seen == ["a", "c", "a", "b"]


@pytest.mark.slow
def test_an_interrupt_ends_its_processes(tmp_path: Path) -> None:
    """It waits for a child that would run for a minute, but that ends with it."""
    child = "import time; from rlhf_flow.system.parent import *; end_with_parent(); print('up', flush=True); "
    keys = ["model.path=m", "prompts.path=p", "scorer.path=s", "rounds=1"]
    flags = ["--queries=64", "--recipes", "xpo", "--lrs=1e-4", "--seeds", "1", "--folder", str(tmp_path)]
    script = f"from rlhf_flow.cli import compare; compare.RUN_ALL = {child!r} + 'time.sleep(60)'; "
    command = [sys.executable, "-c", f"{script}compare.main({[*flags, *keys]})"]
    process = subprocess.Popen(command, stderr=subprocess.DEVNULL, start_new_session=True)
    log = tmp_path / "xpo-lr-0.0001-seed-1.log"
    until(lambda: log.exists() and log.read_text() == "up\n")
    process.send_signal(signal.SIGINT)
    assert process.wait(30) != 0


def until(true: Callable[[], bool], seconds: float = 30) -> None:
    end = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < end
        time.sleep(0.05)
