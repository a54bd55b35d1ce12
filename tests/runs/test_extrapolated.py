"""A schedule that publishes more than it trained: its policies, on disk and after a restart."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from rlhf_flow.cli.main import main
from rlhf_flow.weights.fingerprint import fingerprint
from rlhf_flow.weights.source import Checkpoint
from tests.support import tiny

pytestmark = pytest.mark.slow
ALPHA = 0.5


def overrides(folder: Path, model: Path, asked: Path, *, rounds: int) -> list[str]:
    keys = {"algorithm": "apo", "rounds": rounds, "schedule.alpha": ALPHA, "learner.training.optimizer.lr": 3e-3}
    others = {"observe.console": False, "prompts.batch": 12, "checkpoint.keep": 9}
    return tiny.overrides(model, asked, folder, **keys, **others)


def weights(folder: Path) -> torch.Tensor:
    return torch.cat([tensor.double().flatten() for _, tensor in Checkpoint(folder).stream()])


def test_each_policy_goes_on_beyond_what_was_trained(tmp_path: Path) -> None:
    model, asked = tiny.policy(tmp_path / "model"), tiny.prompts(tmp_path / "prompts.jsonl", number=40)
    assert main(["run", *overrides(tmp_path / "whole", model, asked, rounds=3)]) == 0
    rounds = [tmp_path / f"whole/rounds/{round:05d}" for round in (1, 2, 3)]
    published = [weights(model), *(weights(round / "policy") for round in rounds)]
    trained = [weights(model), *(weights(round / "average-trained") for round in rounds)]
    for round in (1, 2, 3):
        beyond = trained[round] + ALPHA * (trained[round] - trained[round - 1])
        torch.testing.assert_close(published[round], beyond, rtol=0, atol=1e-6)
        assert (published[round] - trained[round]).norm() > 0.1 * (trained[round] - trained[round - 1]).norm() > 0

    assert main(["run", *overrides(tmp_path / "halves", model, asked, rounds=2)]) == 0
    assert main(["run", *overrides(tmp_path / "halves", model, asked, rounds=3)]) == 0
    ends = [json.loads((tmp_path / name / "final.json").read_text())["sha256"] for name in ("whole", "halves")]
    assert ends[0] == ends[1]


def test_the_average_of_a_run_is_named_with_its_own_hash(tmp_path: Path) -> None:
    """In bfloat16, where the average is kept in float32."""
    model, asked = tiny.policy(tmp_path / "model"), tiny.prompts(tmp_path / "prompts.jsonl", number=40)
    keys = {"algorithm": "nash_ema", "objective.scalar_judge": "allow", "rounds": 2, "model.dtype": "bfloat16"}
    others = {"observe.console": False, "learner.training.optimizer.lr": 3e-3}
    assert main(["run", *tiny.overrides(model, asked, tmp_path / "run", **keys, **others)]) == 0
    average, final = (json.loads((tmp_path / f"run/{name}.json").read_text()) for name in ("average", "final"))
    assert average["sha256"] != final["sha256"]
    state = Checkpoint(tmp_path / "run" / average["policy"]).load()
    assert {tensor.dtype for tensor in state.values()} == {torch.float32}
    assert fingerprint(state) == average["sha256"]
