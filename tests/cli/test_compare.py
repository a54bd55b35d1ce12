"""`rlhf-flow compare`: what it runs, and the table of the runs that finished."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import time
from argparse import Namespace
from collections.abc import Callable, Iterable
from dataclasses import replace
from pathlib import Path

import pytest

from rlhf_flow.cli.compare import WORLDS, commands, execute, main, run_all
from rlhf_flow.cli.compared_data import Given, maker, needed, prompts_per_round
from rlhf_flow.cli.compared_runs import Run, at_edge, table, tuned, widened
from rlhf_flow.config.compose import compose
from rlhf_flow.sandbox.world import locate
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


def test_the_table_says_which_learning_rates_are_at_the_end_of_those_tried(tmp_path: Path) -> None:
    best = {"dno": 1e-4, "xpo": 3e-4, "inpo": 1e-3}
    tries = [
        ended(recipe, lr, 0, tmp_path, **figures(0.9 if lr == best[recipe] else 0.5))
        for recipe in best
        for lr in (1e-4, 3e-4, 1e-3)
    ]
    edges = at_edge(tries, tuned(tries, "eval/win_rate", lower=False))
    assert sorted(edges) == ["dno", "inpo"]
    *_, note = table(tries, "eval/win_rate", lower=False, edges=["dno", "inpo"]).splitlines()
    assert note.startswith("`dno`, `inpo`: the learning rate is the smallest or the largest tried")
    assert "smallest" not in table(tries, "eval/win_rate", lower=False)


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
    assert "| 0.72 (0.61 to 0.83) | 1 (1 to 1) |" in xpo
    assert xpo.endswith(f"| {10 * ROUNDS} |")


def test_a_batch_is_what_the_queries_allow() -> None:
    """A query is a rated answer, or a compared pair if preferences can be cyclic."""
    rated = configured(**{"sampler.draws.0.n": 4})
    assert prompts_per_round(rated, 64 * rated.rounds) == 16
    compared = configured(scorer="judge", **{"scorer.model": "any", "sampler.draws.0.n": 4})
    assert prompts_per_round(compared, 64 * compared.rounds) == 64 // 6
    with pytest.raises(ValueError, match=r"--queries=3: .* needs 4"):
        prompts_per_round(rated, 3)


@pytest.mark.parametrize(
    ("recipe", "scorer", "queries", "batch"),
    [
        ("offline_dpo", "rated", 1024, 128),  # two ratings a prompt
        ("offline_dpo", "compared", 1024, 256),  # one comparison
        ("chord", "rated", 1024, 23),  # of two given answers, and of eight of its own beside the expert's: 11
        ("dr_po", "compared", 1024, 36),  # one, and those of four answers: 7
        ("tgdpo", "rated", 1024, 32),  # half of the queries train the other policy, and four ratings a prompt are left
        ("xpo", "rated", 1024, 128),
    ],
)
def test_the_queries_of_what_a_recipe_reads_count(
    recipe: str, scorer: str, queries: int, batch: int, tmp_path: Path
) -> None:
    judge = {"rated": "scorer=gold", "compared": "scorer=cyclic"}[scorer]
    keys = ["model.path=m", "prompts.path=p", "stack=local", f"rounds={ROUNDS}", judge]
    given = needed(recipe, tmp_path / "data-seed-1", queries, keys, [])
    config = compose(*keys, f"algorithm={recipe}", *given.overrides)
    assert prompts_per_round(config, queries, given) == batch
    run = ended(recipe, 1e-4, 1, tmp_path, **figures(0.5))
    counted = replace(run, given=given).row["judge/queries"]
    assert counted == (0 if given.labelled else 10 * ROUNDS) + given.queries
    assert given.queries == {"xpo": 0, "tgdpo": queries // 2}.get(recipe, given.each * ROUNDS * batch)


def test_the_data_of_a_seed_is_made_before_the_runs_that_read_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    keys = ["model.path=m", "prompts.path=p", "scorer=gold", "stack=local", f"rounds={ROUNDS}"]
    given = needed("offline_dpo", tmp_path / "data-seed-1", 64, keys, [])
    runs = [Run("offline_dpo", 1e-4, 1, ROUNDS, tmp_path, given), Run("xpo", 1e-4, 1, ROUNDS, tmp_path)]
    started: list[list[str]] = []

    def note(tasks: Iterable[tuple[Path, list[list[str]]]], options: Namespace) -> bool:
        started.append([command[-1] for _, several in tasks for command in several])
        return True

    monkeypatch.setattr("rlhf_flow.cli.compare.start", note)
    assert execute(runs, keys, Namespace(queries=64, config_dir=[], folder=tmp_path, jobs=1))
    of = [
        f"run_dir={tmp_path}/{name}" for name in ("data-seed-1", "offline_dpo-lr-0.0001-seed-1", "xpo-lr-0.0001-seed-1")
    ]
    assert started == [of[:1], of[1:]]
    config = compose(*maker(keys, 64, []))
    assert config.prompts.batch == 16 and config.rounds == 2 and [*config.sampler.roles] == ["reference"]


@pytest.mark.parametrize("world", WORLDS)
def test_the_data_of_a_world_composes(world: str) -> None:
    config = compose(*maker(WORLDS[world][1], 1024, []))
    assert [(draw.name, draw.n) for draw in config.sampler.drawn.values()] == [("reference", 2)]


def test_the_table_says_what_the_queries_count(tmp_path: Path) -> None:
    read = replace(
        ended("offline_dpo", 1e-4, 1, tmp_path, **figures(0.5)), given=Given(each=2, queries=64, labelled=True)
    )
    guided = replace(ended("tgdpo", 1e-4, 1, tmp_path, **figures(0.6)), given=Given(once=32, queries=32))
    text = table([read, guided, ended("xpo", 1e-4, 1, tmp_path, **figures(0.7))], "eval/win_rate", lower=False)
    assert "`offline_dpo`: the queries include 2 for each prompt, for comparing the two answers" in text
    assert "`tgdpo`: the queries include 32 of the DPO run whose policy the recipe reads." in text
    rows = {line.split("|")[1].strip(): line.split("|")[-2].strip() for line in text.splitlines()[2:5]}
    assert rows == {"`xpo`": "40", "`tgdpo`": "72", "`offline_dpo`": "64"}


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
    assert "| `xpo` | 0.0001 | 0.50 (0.40 to 0.60) |" in capsys.readouterr().out


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


def test_a_recipe_that_does_not_fit_is_named(tmp_path: Path) -> None:
    flags = ["--world=sandbox", "--recipes", "xpo", "online_dpo", "--seeds", "1", "--folder", str(tmp_path)]
    with pytest.raises(ValueError, match=r"--recipes=xpo: answers\.n=3: cannot be divided"):
        main([*flags, "answers.n=3"])


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
    heard = (
        "import signal; signal.signal(signal.SIGINT, signal.default_int_handler)"  # shells' background jobs ignore it
    )
    script = f"{heard}; from rlhf_flow.cli import compare; compare.RUN_ALL = {child!r} + 'time.sleep(60)'; "
    command = [sys.executable, "-c", f"{script}compare.main({[*flags, *keys]})"]
    process = subprocess.Popen(command, stderr=subprocess.DEVNULL, start_new_session=True)
    log = tmp_path / "xpo-lr-0.0001-seed-1.log"
    until(lambda: log.exists() and log.read_text() == "up\n")
    process.send_signal(signal.SIGINT)
    assert process.wait(30) != 0


@pytest.mark.soak
def test_a_comparison_in_the_cyclic_world(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A recipe of each kind within the same queries. The same command repeats no run, and adds a recipe."""
    held_out = tmp_path / "held_out.jsonl"
    held_out.write_text("\n".join(locate().held_out.read_text().splitlines()[:16]))
    small = ["rounds=2", f"prompts.held_out_path={held_out}", "answers.max_tokens=24"]
    flags = ["--world=cyclic", "--queries=48", "--seeds", "1", "--folder", str(tmp_path / "runs")]
    first, more = ["online_dpo", "offline_dpo"], ["dr_po", "tgdpo"]
    assert main([*flags, *small, "--lrs", "3e-4", "1e-3", "--recipes", *first]) == 0
    assert "`offline_dpo`: the queries include 1 for each prompt" in capsys.readouterr().out
    made = {path: path.read_bytes() for path in tmp_path.glob("runs/*/metrics.jsonl")}
    assert main([*flags, *small, "--lrs", "3e-4", "--recipes", *first, *more]) == 0
    rows = {row["recipe"]: row for row in json.loads((tmp_path / "runs/compared.json").read_text())}
    assert rows.keys() == {*first, *more}
    assert all(36 <= row["judge/queries"] <= 48 for row in rows.values())
    assert all("eval/gap" in row for row in rows.values())
    assert {path: path.read_bytes() for path in made} == made


def until(true: Callable[[], bool], seconds: float = 30) -> None:
    end = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < end
        time.sleep(0.05)
