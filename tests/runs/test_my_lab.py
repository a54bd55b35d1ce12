"""An algorithm from outside the package: one small file and two yamls, run by the command line, checked like ours."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from rlhf_flow.cli.main import main
from rlhf_flow.objective.rebel import REBEL
from rlhf_flow.verify.claims.family_pairs import REFERENCE, REWARDS, rewarded
from rlhf_flow.verify.closed_form_check import EXACT
from rlhf_flow.verify.pairs import draw_pairs, tensors
from tests.support import tiny
from tests.support.my_lab.rebel import Rebel

pytestmark = pytest.mark.slow

LAB = Path(__file__).parents[1] / "support/my_lab"
CHOSEN = ["--config-dir", str(LAB / "conf"), "algorithm=my_rebel"]


def test_it_runs_from_its_own_folder(tmp_path: Path) -> None:
    model, prompts = tiny.policy(tmp_path / "model"), tiny.prompts(tmp_path / "prompts.jsonl")
    run = tmp_path / "run"
    assert main(["run", *tiny.overrides(model, prompts, run), *CHOSEN, "objective.eta=0.5"]) == 0
    last = json.loads((run / "metrics.jsonl").read_text().splitlines()[-1])
    assert last["train/steps"] > 0
    assert "_target_: tests.support.my_lab.rebel.Rebel" in (run / "config.yaml").read_text()


def test_its_mistakes_are_refused_like_ours(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    asked = tiny.overrides(tmp_path, tmp_path / "none.jsonl", tmp_path / "run")
    assert main(["run", *asked, *CHOSEN, "objective.eta=0"]) == 2
    assert "objective.eta must be > 0, got 0" in capsys.readouterr().err


def test_its_claim_holds_on_a_game() -> None:
    """A round is a natural policy gradient step: it multiplies the policy by exp(eta r)."""
    last = rewarded(Rebel(0.7), 3).of()[-1]
    step = REFERENCE * np.exp(3 * 0.7 * REWARDS)
    np.testing.assert_allclose(last, step / step.sum(), atol=1e-8)


def test_it_is_small_and_the_same_as_ours() -> None:
    assert len((LAB / "rebel.py").read_text().splitlines()) <= 40
    pairs = draw_pairs(0, count=16)
    mine, ours = (each.loss(tensors(pairs, each)).values for each in (Rebel(0.3), REBEL(0.3)))
    assert (mine - ours).abs().max() < EXACT
