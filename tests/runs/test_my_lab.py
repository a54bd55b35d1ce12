"""An algorithm from outside the package: one small file and two yamls, run by the command line, checked like ours."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from rlhf_flow.cli.main import main
from rlhf_flow.verify import Game, play
from rlhf_flow.verify.setting import EXACT, SELF_PLAY
from tests.support import tiny
from tests.support.my_lab.robust import RobustDPO

pytestmark = pytest.mark.slow

LAB = Path(__file__).parents[1] / "support/my_lab"


def test_it_runs_from_its_own_folder(tmp_path: Path) -> None:
    model, prompts = tiny.policy(tmp_path / "model"), tiny.prompts(tmp_path / "prompts.jsonl")
    chosen = ["--config-dir", str(LAB / "conf"), "algorithm=robust", "objective.epsilon=0.05"]
    run = tmp_path / "run"
    assert main(["run", *tiny.overrides(model, prompts, run), *chosen]) == 0
    last = json.loads((run / "metrics.jsonl").read_text().splitlines()[-1])
    assert last["train/steps"] > 0
    assert "_target_: tests.support.my_lab.robust.RobustDPO" in (run / "config.yaml").read_text()


def test_its_mistakes_are_refused_like_ours(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    chosen = ["--config-dir", str(LAB / "conf"), "algorithm=robust", "objective.epsilon=0.7"]
    assert main(["run", *tiny.overrides(tmp_path, tmp_path / "none.jsonl", tmp_path / "run"), *chosen]) == 2
    assert "objective.epsilon must be in [0, 0.5), got 0.7. Try 0.1." in capsys.readouterr().err


def test_its_claim_holds_on_a_game() -> None:
    """Labels right 4 times of 5, a fifth of them flipped: its optimum is that of the labels before."""
    beta, epsilon, right = 0.7, 0.2, 0.8
    seen = right * (1 - epsilon) + (1 - right) * epsilon
    game = Game(np.array([[0.5, seen], [1 - seen, 0.5]]), np.array([0.3, 0.7]))
    played = play(game, objective=RobustDPO(beta, epsilon), sampler=SELF_PLAY, selector=EXACT, rounds=1)
    ratio = np.log(played.of()[-1] / game.reference)
    assert beta * (ratio[0] - ratio[1]) == pytest.approx(np.log(right / (1 - right)), abs=1e-9)


def test_it_is_small() -> None:
    assert len((LAB / "robust.py").read_text().splitlines()) < 60
