"""What a run asks of its cluster: GPUs, an object store, and time to load checkpoints."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import yaml

from rlhf_flow.capacity.cluster_needs import gpus, sized
from rlhf_flow.cli.main import main
from rlhf_flow.cli.plan import main as plan
from rlhf_flow.cluster.ray import Ray
from rlhf_flow.system import machine
from tests.support import tiny
from tests.support.configured import configured

EIGHT_BILLION = 8_000_000_000
MODEL = {"scorer": "reward_model", "scorer.path": "m", "learner": "deepspeed", "engine": "vllm"}


def checkpoint(folder: Path, parameters: int) -> Path:
    """The header of bfloat16 weights, and a hole where these would be."""
    about = {"w": {"dtype": "BF16", "shape": [parameters], "data_offsets": [0, 2 * parameters]}}
    header = json.dumps(about).encode()
    folder.mkdir()
    with (folder / "model.safetensors").open("wb") as file:
        file.write(len(header).to_bytes(8, "little") + header)
        file.truncate(8 + len(header) + 2 * parameters)
    return folder


@pytest.mark.parametrize(
    ("keys", "expected"),
    [
        ({"cluster.engines": 7, "learner.ranks": 8}, 16),
        ({"cluster.engines": 2, "engine.tensor_parallel": 4, "learner.ranks": 4, "cluster.scorers": 3}, 15),
        ({"learner.ranks": 2, "cluster.gpu_share": 0.25}, 1),
        ({"scorer@evaluate.scorer": "reward_model", "evaluate.scorer.path": "m"}, 4),
        ({"cluster": "colocated", "cluster.engines": 8, "learner.ranks": 8}, 8),
    ],
)
def test_the_gpus_of_all_roles_are_added_unless_they_take_turns(keys: dict[str, object], expected: float) -> None:
    assert gpus(configured(**{"cluster": "ray", **MODEL, **keys})) == expected


def test_a_scorer_without_a_model_and_one_process_need_none_of_their_own() -> None:
    assert gpus(configured(cluster="ray")) == 2
    assert gpus(configured()) == 1


@pytest.fixture
def free(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """GiB of shared memory."""
    gib = [1000]
    monkeypatch.setattr(machine, "shared_memory", lambda: gib[0] << 30)
    return gib


def test_the_store_holds_the_policies_of_a_round_below_the_size_at_which_ray_spills(
    free: list[int], tmp_path: Path
) -> None:
    start = checkpoint(tmp_path / "model", EIGHT_BILLION)
    keys = {"cluster": "ray", "model.dtype": "bfloat16", "rounds": 3}
    policy = 2 * EIGHT_BILLION / (1 << 20)  # MiB
    made = sized(configured(**keys), start).object_store_mib
    assert made is not None
    assert 0.8 * made > 2 * policy  # the one that is trained, and the one that is published
    assert made < 3.5 * policy
    free[0] = 20
    bounded = sized(configured(**keys), start).object_store_mib
    assert bounded is not None
    assert 512 < bounded < 20 << 10
    free[0] = 0
    assert sized(configured(**keys), start).object_store_mib == 512
    assert sized(configured(**keys, **{"cluster.object_store_mib": 600}), start).object_store_mib == 600


def test_the_patience_grows_with_the_largest_checkpoint(free: list[int], tmp_path: Path) -> None:
    start, scorer = checkpoint(tmp_path / "model", 10**6), checkpoint(tmp_path / "scorer", EIGHT_BILLION)
    with_scorer = configured(**{"cluster": "ray", "scorer": "reward_model", "scorer.path": scorer})
    assert sized(configured(cluster="ray"), start).fault_tolerance.patience == pytest.approx(300, abs=1)
    assert sized(with_scorer, start).fault_tolerance.patience == pytest.approx(300 + 80, abs=1)


@pytest.mark.slow
def test_a_run_opens_its_cluster_with_that_and_its_folder_keeps_what_the_user_gave(
    free: list[int], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("ray")
    opened: list[Ray] = []

    def open_(spec: Ray) -> None:
        opened.append(spec)
        raise RuntimeError("no cluster is needed here")

    monkeypatch.setattr(Ray, "open", open_)
    model, asked = tiny.policy(tmp_path / "model"), tiny.prompts(tmp_path / "prompts.jsonl")
    assert main(["run", *tiny.overrides(model, asked, tmp_path / "run", cluster="ray")]) != 0
    (spec,) = opened
    assert spec.object_store_mib == 513
    assert spec.fault_tolerance.start_seconds == pytest.approx(300, abs=1)
    written = yaml.safe_load((tmp_path / "run/config.yaml").read_text())["cluster"]
    assert written["object_store_mib"] is written["fault_tolerance"]["start_seconds"] is None


@pytest.mark.slow
def test_a_plan_with_fewer_gpus_than_the_roles_need_does_not_fit(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    model, asked = tiny.policy(tmp_path / "model"), tiny.prompts(tmp_path / "prompts.jsonl")
    keys = [*tiny.overrides(model, asked, tmp_path / "run", cluster="ray"), "cluster.engines=8", "--memory", "80GiB"]
    assert plan([*keys, "--gpus", "9"]) == 0
    assert plan([*keys, "--gpus", "8"]) == 1
    assert "all roles together need 9 GPUs, and 8 are available. Fix: fewer" in capsys.readouterr().out
