"""A whole run on the default stack broadcasts its weights, and copies none that no later round needs."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from rlhf_flow.cli.main import main
from rlhf_flow.cluster.clients import RayLearner
from rlhf_flow.cluster.weight_sync.direct import DirectSync
from rlhf_flow.types import Policy
from tests.support import tiny

pytestmark = [pytest.mark.ray, pytest.mark.vllm, pytest.mark.deepspeed]


@pytest.fixture
def counted(monkeypatch: pytest.MonkeyPatch) -> Iterator[dict[str, int]]:
    """How many policies the engines received, and how many were copied to the object store."""
    counts = {"sent": 0, "copied": 0}
    copy, sets = RayLearner._copied, DirectSync.__setattr__

    def copied(learner: RayLearner, policy: Policy) -> object:
        counts["copied"] += 1
        return copy(learner, policy)

    def noted(sync: DirectSync, name: str, value: object) -> None:
        counts["sent"] += name == "sent" and value != 0
        sets(sync, name, value)

    monkeypatch.setattr(RayLearner, "_copied", copied)
    monkeypatch.setattr(DirectSync, "__setattr__", noted)
    yield counts


@pytest.mark.parametrize("every", [1, pytest.param(9, marks=pytest.mark.soak)])
def test_every_round_is_broadcast_and_nothing_is_copied(every: int, counted: dict[str, int], tmp_path: Path) -> None:
    policy, prompts = tiny.policy(tmp_path / "policy", heads=1), tiny.prompts(tmp_path / "prompts.jsonl")
    asked = tiny.overrides(
        policy,
        prompts,
        tmp_path / "run",
        rounds=3,
        **{"checkpoint.every": every, "cluster": "ray", "engine": "vllm", "learner": "deepspeed"},
    )
    assert main(["run", *asked]) == 0
    rounds = [json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    assert [one["round"] for one in rounds] == [0, 1, 2, 3]
    assert counted == {"sent": 3, "copied": 0}
