"""The learning rate of a run that names none, and what is said of a run that cannot move."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import yaml

from rlhf_flow.capacity.estimate import plan
from rlhf_flow.capacity.fit import Room
from rlhf_flow.config import compose as config
from rlhf_flow.config.learning_rate import parameters_of, rate_for, rated, stands_still
from rlhf_flow.runner import prepare as build
from tests.support import tiny
from tests.support.configured import configured


@pytest.mark.parametrize(
    ("parameters", "rate"), [(7_000_000_000, 5e-7), (135_000_000, 7e-6), (1_000_000, 2e-4), (70_000_000_000, 1e-7)]
)
def test_a_smaller_model_takes_larger_steps(parameters: int, rate: float) -> None:
    assert rate_for(parameters) == rate
    assert rate_for(parameters, adapter=True) == pytest.approx(10 * rate, rel=0.2)


def test_a_method_whose_paper_has_another_rate_takes_it() -> None:
    rates = {
        name: rated(configured(algorithm=name), 7_000_000_000).learner.training.optimizer.lr
        for name in ("online_dpo", "grpo", "orpo")
    }
    assert rates == {"online_dpo": 5e-7, "grpo": 1e-6, "orpo": 5e-6}


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["bradley_terry", "gpm", "micro", "pairwise", "rating", "rated_preference"])
def test_a_reward_model_takes_the_rate_of_its_size(kind: str) -> None:
    keys = [f"reward={kind}", "model.path=model", "prompts.path=pairs.jsonl"]
    made = config.compose(*keys, name="train-reward")
    rates = [rated(made, parameters).learner.training.optimizer.lr for parameters in (7_000_000_000, 1_000_000)]
    assert rates == [5e-6, 2e-3]


@pytest.mark.slow
def test_a_rate_that_is_given_stays() -> None:
    given = configured(**{"learner.training.optimizer.lr": 3e-5})
    assert rated(given, 1_000) is given
    assert rated(configured(), 7_000_000_000).learner.training.optimizer.lr == 5e-7
    assert rated(configured(learner="lora"), 7_000_000_000).learner.training.optimizer.lr == 5e-6


@pytest.mark.slow
def test_a_run_that_can_hardly_move_says_so_as_it_starts(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    model, asked = tiny.policy(tmp_path / "model"), tiny.prompts(tmp_path / "prompts.jsonl")
    slow = {"learner.training.optimizer.lr": 1e-9}
    build.prepare(config.compose(*tiny.overrides(model, asked, tmp_path / "run", **slow))).run()
    assert "warning: learner.training.optimizer.lr=1e-09: the run can hardly move" in capsys.readouterr().out


def test_a_run_that_can_hardly_move_is_told_a_rate_that_moves_it() -> None:
    slow = configured(**{"learner.training.optimizer.lr": 5e-7})
    told = stands_still(slow, 135_000_000, steps=4)
    assert told is not None
    assert "learner.training.optimizer.lr=5e-07: the run can hardly move the policy, since 4 steps" in told
    assert "Fix: learner.training.optimizer.lr=7e-06" in told
    assert stands_still(slow, 135_000_000, steps=40) is None
    assert stands_still(slow, 7_000_000_000, steps=4) is None
    assert stands_still(rated(configured(), 135_000_000), 135_000_000, steps=4) is None


@pytest.mark.slow
def test_the_rate_is_recorded_as_the_number_that_it_is_and_plan_tells_the_same(tmp_path: Path) -> None:
    model, asked = tiny.policy(tmp_path / "model"), tiny.prompts(tmp_path / "prompts.jsonl")
    made = config.compose(*tiny.overrides(model, asked, tmp_path / "run"))
    prepared = build.prepare(made)
    prepared.ledger.close()
    number = rate_for(parameters_of(model))
    assert (
        yaml.safe_load((tmp_path / "run/config.yaml").read_text())["learner"]["training"]["optimizer"]["lr"] == number
    )
    assert json.loads((tmp_path / "run/identity.json").read_text())["learner.training.optimizer.lr"] == number
    there = Room(host=1 << 40, gpus=0, gpu=0)
    assert not any("hardly move" in note for note in plan(made, there).notes)
    made = config.compose(*tiny.overrides(model, asked, tmp_path / "run", **{"learner.training.optimizer.lr": 1e-9}))
    assert any("hardly move" in note for note in plan(made, there).notes)
