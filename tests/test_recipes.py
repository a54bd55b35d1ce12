"""Every recipe, on a policy of two layers: a judge who likes one letter gets more of it."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from rlhf_flow.__main__ import main
from rlhf_flow.config import CONFIGS
from tests import tiny

RECIPES = sorted(path.stem for path in (CONFIGS / "algorithm").glob("*.yaml"))

# What a policy of two layers needs to move in few rounds; the recipes' own values are the papers'.
CONSTANTS = {
    "online_slic": {"objective.beta": 0.1},
    "selm": {"objective.beta": 0.1},
    "dno": {"objective.eta": 1.0},
    "dno_prct": {"selector.margin": 0.1, "selector.student_margin": 0.1},
    "inpo": {"objective.eta": 0.1},
    "sppo": {"objective.eta": 20.0},
    "egpo": {"rounds": 4},
}


def learned(recipe: str, folder: Path, model: Path, prompts: Path, **keys: object) -> list[dict[str, float]]:
    """The metrics of each round of a run under `fond_of_a`."""
    values: dict[str, object] = {
        "algorithm": recipe,
        "scorer": "comparison",
        "scorer.measure": "tests.tiny.letters",
        "prompts.batch": 20,
        "rounds": 4,
        "evaluate.every": 4,
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
    assert main(["run", *asked, "scorer.function=tests.tiny.fond_of_a"]) == 0
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    folder = tmp_path_factory.mktemp("recipes")
    return tiny.policy(folder / "model"), tiny.prompts(folder / "prompts.jsonl")


@pytest.mark.parametrize("recipe", RECIPES)
def test_a_recipe_learns_what_its_judge_likes(recipe: str, world: tuple[Path, Path], tmp_path: Path) -> None:
    first, *_, last = learned(recipe, tmp_path / recipe, *world)
    assert last["eval/letters"] > first["eval/letters"] + 0.2
    assert last["eval/win_rate"] > 0.5
