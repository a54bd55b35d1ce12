"""Every recipe, on a policy of two layers: a judge who likes vowels gets more of them.

One learns to the end in one process. Some take one step in each of two rounds on the real stack: those that differ in
their source of answers or in their stages.
That ranks take the steps of one process, whatever the loss, is shown in `tests/learner`; `make soak` runs all recipes.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest

from rlhf_flow.cli.main import run
from rlhf_flow.cluster.ray_persistent import OpenClusters
from rlhf_flow.config.compose import CONFIGS
from tests.support import tiny

pytestmark = pytest.mark.slow
CLUSTERS = OpenClusters()

# These need answers of a data set, or another policy: they have tests of their own.
GIVEN = {"hypo", "offline_dpo", "tgdpo", "triple_po", "chord", "dr_po", "srpo"}
RECIPES = sorted({path.stem for path in (CONFIGS / "algorithm").glob("*.yaml")} - GIVEN)
WHOLE = ("nash_md", "online_dpo")
ALONE = ("nash_ema",)
SHORT_RUNS = ("dno", "egpo", "nash_ema", "nash_md", "xpo")
HALF_STEPS = ("egpo", "temporal")  # the second round starts from the policy before the half step
SHORT = {  # one step in each of two rounds
    "rounds": 2,
    "evaluate.every": 2,
    "prompts.batch": 16,
    "prompts.held_out": 8,
    "learner.training.batch": 999,
    "learner.training.epochs": 1,
}

# What a policy of two layers needs to move in few rounds; the recipes' own values are the papers'.
CONSTANTS = {
    "online_slic": {"objective.beta": 0.1},
    "selm": {"objective.beta": 0.1},
    "dno": {"prompts.batch": 64},  # of four answers, in six pairs
    "dno_prct": {"prompts.batch": 48, "selector.student_margin": 0.2},  # of five, in up to ten
    "inpo": {"objective.eta": 0.1},
    "online_ipo": {
        "objective.tau": 0.1,
        "sampler.draws": "[{name: policy, n: 4}]",  # of which all pairs are self-play like a single one
        "selector": "all_pairs",
        "prompts.batch": 128,
    },
    "ipo_md": {"objective.tau": 0.1, "rounds": 6, "evaluate.every": 6},
    "sppo": {"objective.eta": 20.0},
    "egpo": {"rounds": 8, "evaluate.every": 8},
    "comal": {"rounds": 6, "evaluate.every": 6, "objective.eta": 0.1, "objective.tau": 0.03},
    "mnpo": {"objective.eta": 0.1, "objective.tau": 0.03},
    "gpo": {"objective.beta": 0.1, "objective.clip": 20.0},
    "rdpo": {"objective.noise": 0.05},
    "osp": {"prompts.batch": 64},
    "copg": {"objective.beta": 0.05},
    "rebel": {"objective.eta": 5.0},  # this judge's utilities are win rates
    "rso": {"prompts.batch": 96},
    "rloo": {"prompts.batch": 96},
    "grpo": {"prompts.batch": 96},
    "spo": {"prompts.batch": 96},
    "trpa": {"prompts.batch": 64, "objective.beta": 1.0},
    "simpo": {"objective.margin": 0.2},
    "temporal": {"prompts.batch": 96},
    "pilaf": {"objective.beta": 0.5},
}


def learned(
    recipe: str, folder: Path, model: Path, prompts: Path, others: Sequence[str] = (), **keys: object
) -> list[dict[str, float]]:
    """The metrics of each round of a run under `fond_of_vowels`."""
    values: dict[str, object] = {
        "algorithm": recipe,
        "scorer": "comparison",
        "scorer.measure": "tests.support.tiny.vowels",
        "prompts.batch": 192,
        "prompts.held_out": 64,
        "rounds": 4,
        "evaluate.every": 4,
        "answers.max_tokens": 24,
        "evaluate.draw.max_tokens": 8,
        "selector.truncated": "keep",
        "learner.training.batch": 16,
        "learner.training.epochs": 2,
        "learner.training.optimizer.lr": 3e-3,
        "observe.console": False,
        "checkpoint.every": 9,
    }
    values |= CONSTANTS.get(recipe, {}) | keys
    asked = tiny.overrides(model, prompts, folder, **values)
    asked = [override for override in asked if not override.startswith("sampler.draws.0")]
    replaced = {other.partition("=")[0] for other in others}
    asked = [override for override in asked if override.partition("=")[0] not in replaced]
    assert run([*asked, "scorer.function=tests.support.tiny.fond_of_vowels", *others], CLUSTERS) == 0
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    folder = tmp_path_factory.mktemp("recipes")
    return tiny.policy(folder / "model", heads=1), tiny.prompts(folder / "prompts.jsonl", number=260)


@pytest.fixture(scope="module")
def stack() -> Iterator[list[str]]:
    """Overrides for vLLM, and DeepSpeed on two ranks, on one Ray cluster for all recipes."""
    yield ["cluster=ray_persistent", "engine=vllm", "learner=deepspeed", "learner.ranks=2"]
    CLUSTERS.close()


@pytest.mark.parametrize(
    "recipe",
    [pytest.param(one, marks=[] if one in ALONE else pytest.mark.soak) for one in RECIPES if one not in WHOLE],
)
def test_a_recipe_learns_what_its_judge_likes(recipe: str, world: tuple[Path, Path], tmp_path: Path) -> None:
    liked(learned(recipe, tmp_path / recipe, *world))


@pytest.mark.soak
@pytest.mark.parametrize("recipe", WHOLE)
def test_so_it_does_with_vllm_and_deepspeed(
    recipe: str, world: tuple[Path, Path], stack: list[str], tmp_path: Path
) -> None:
    liked(learned(recipe, tmp_path / recipe, *world, others=stack))


@pytest.mark.vllm
@pytest.mark.deepspeed
@pytest.mark.ray
@pytest.mark.parametrize(
    "recipe", [pytest.param(one, marks=[] if one in SHORT_RUNS else pytest.mark.soak) for one in RECIPES]
)
def test_ranks_take_the_steps_of_every_recipe_and_engines_draw_from_what_they_learned(
    recipe: str, world: tuple[Path, Path], stack: list[str], tmp_path: Path
) -> None:
    _, *rounds = learned(recipe, tmp_path / recipe, *world, others=stack, **SHORT)
    for metrics in rounds:
        assert metrics["train/steps"] == 1
        assert math.isfinite(metrics["train/loss"])
    for metrics in rounds[:1] if recipe in HALF_STEPS else rounds:
        assert metrics.get("mismatch/max", 0.0) < 1e-3  # nats; absent if the round's answers are those of a mixture
    assert len(set(policies(tmp_path / recipe))) == 1 + len(rounds)


def policies(run: Path) -> list[str]:
    return [json.loads(path.read_text())["policy"] for path in sorted(run.glob("rounds/*/record.json"))]


def liked(metrics: list[dict[str, float]]) -> None:
    first, *_, last = metrics
    told = {key: (first.get(key), last.get(key)) for key in ("eval/vowels", "eval/win_rate", "eval/length")}
    assert last["eval/vowels"] > first["eval/vowels"] + 0.02, told
    assert last["eval/win_rate"] > 0.5, told


@pytest.mark.vllm
@pytest.mark.deepspeed
@pytest.mark.ray
def test_a_run_on_workers_that_served_another_is_the_same_run(
    world: tuple[Path, Path], stack: list[str], tmp_path: Path
) -> None:
    def ended(name: str, recipe: str, **keys: object) -> str:
        learned(recipe, tmp_path / name, *world, others=stack, **keys)
        return str(json.loads((tmp_path / name / "final.json").read_text())["sha256"])

    short = {"rounds": 1, "evaluate.every": 1, "prompts.batch": 32}
    first = ended("first", "nash_md_exact", **short)
    assert ended("other", "online_dpo", seed=1, **short) != first
    assert ended("again", "nash_md_exact", **short) == first
