"""CPU threads: roles that take turns get all cores, roles that work at the same time share them."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from rlhf_flow.config.compose import as_yaml, compose
from rlhf_flow.config.identity import identity
from rlhf_flow.config.schema import RunConfig
from rlhf_flow.config.threads import Threads, overlap, shares, threaded
from rlhf_flow.system import machine

RAY = ("cluster=ray", "learner=deepspeed")
LAGGED = (*RAY, "lag=1", "off_policy.max_staleness=1")


@pytest.fixture(autouse=True)
def no_limit(monkeypatch: pytest.MonkeyPatch) -> None:
    """The suite sets one thread for each of its processes."""
    monkeypatch.delenv("OMP_NUM_THREADS")


def composed(*overrides: str) -> RunConfig:
    scorer = () if {"scorer=cached", "scorer=rule"} & {*overrides} else ("scorer.path=s",)
    return compose("model.path=m", "prompts.path=p", *scorer, *overrides)


@pytest.mark.parametrize(
    ("overrides", "cores", "expected"),
    [
        (RAY, 8, Threads(8, 8, 8)),  # they take turns
        (RAY, 1, Threads(1, 1, 1)),
        ((*RAY, "cluster.engines=4", "learner.ranks=3"), 8, Threads(2, 8, 2)),
        ((*RAY, "cluster.engines=4"), 2, Threads(1, 2, 2)),  # at least one
        (
            (*RAY, "cluster.address=head:6379", "cluster.nodes=2", "cluster.engines=4", "cluster.scorers=2"),
            8,
            Threads(4, 8, 8),
        ),  # two on a node
        (LAGGED, 8, Threads(4, 4, 4)),
        ((*LAGGED, "learner.ranks=4", "cluster.scorers=2"), 9, Threads(4, 2, 1)),
        ((*LAGGED, "cluster.layout=colocated"), 8, Threads(8, 8, 8)),  # a lag has no effect
    ],
)
def test_cores_are_shared_by_what_works_at_the_same_time(
    overrides: tuple[str, ...], cores: int, expected: Threads
) -> None:
    assert shares(composed(*overrides), cores) == expected


def test_every_process_that_loads_a_model_gets_its_number(tmp_path: Path) -> None:
    config = composed(
        *RAY, f"run_dir={tmp_path}", "scorer=cached", "scorer@scorer.base=reward_model", "scorer.base.path=s"
    )
    filled = threaded(config, 6)
    assert filled.engine.threads == filled.learner.training.threads == filled.scorer.base.threads == 6


def test_a_number_of_the_user_stays(tmp_path: Path) -> None:
    own = ("engine.threads=3", "scorer.threads=2", "learner.training.threads=1")
    filled = threaded(composed(*RAY, f"run_dir={tmp_path}", *own), 6)
    assert (filled.engine.threads, filled.scorer.threads, filled.learner.training.threads) == (3, 2, 1)


def test_a_learner_keeps_the_threads_of_the_first_start_on_another_machine(tmp_path: Path) -> None:
    config = composed(*RAY, f"run_dir={tmp_path}")
    first = threaded(config, 4)
    (tmp_path / "config.yaml").write_text(as_yaml(first))
    again = threaded(config, 32)
    assert again.learner.training.threads == 4
    assert identity(again) == identity(first), "the run can be resumed there"
    assert again.engine.threads == 32, "an engine and a scorer take what the machine has"
    assert identity(threaded(composed(*RAY, f"run_dir={tmp_path}", "learner.training.threads=8"), 4)) != identity(first)


def test_the_learner_of_an_old_run_keeps_its_one_thread(tmp_path: Path) -> None:
    config = composed(*RAY, f"run_dir={tmp_path}")
    (tmp_path / "config.yaml").write_text(yaml.safe_dump({"learner": {"training": {"threads": None}}}))
    assert threaded(config, 4).learner.training.threads == 1


def test_in_one_process_all_roles_have_the_threads_of_the_learner(tmp_path: Path) -> None:
    config = composed("cluster=local", "engine=huggingface", "learner=torch", f"run_dir={tmp_path}")
    (tmp_path / "config.yaml").write_text(as_yaml(threaded(config, 3)))
    filled = threaded(config, 8)
    assert filled.engine.threads == filled.scorer.threads == filled.learner.training.threads == 3


@pytest.mark.parametrize(("limit", "expected"), [("max 100000", 8), ("250000 100000", 2), ("5 100000", 1)])
def test_a_container_limits_the_cores(
    limit: str, expected: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "cpu.max").write_text(f"{limit}\n")
    monkeypatch.setattr(machine, "CPU_LIMIT", tmp_path / "cpu.max")
    monkeypatch.setattr(machine.os, "sched_getaffinity", lambda process: set(range(8)))
    assert machine.cores() == expected


@pytest.mark.parametrize(("most", "expected"), [("3", 3), ("8", 4), ("0", 1), ("", 4), ("4,2", 4)])
def test_the_environment_limits_each_process(most: str, expected: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OMP_NUM_THREADS", most)
    assert shares(composed(*RAY, "cluster.engines=4"), 16).engine == expected


@pytest.mark.parametrize(
    ("overrides", "cores", "gpus", "expected"),
    [
        (RAY, 2, 0, False),  # both would use both cores
        ((*RAY, "engine.threads=1", "scorer.threads=1"), 2, 0, True),
        ((*RAY, "engine.threads=1", "scorer.threads=1", "cluster.engines=2"), 2, 0, False),
        (RAY, 2, 1, True),
        ((*RAY, "cluster.layout=colocated"), 2, 1, False),  # they take turns on the same GPUs
        (("cluster=local", "engine=huggingface", "learner=torch"), 8, 0, False),
        ((*RAY, "scorer=rule", "scorer.function=a.b"), 2, 0, True),  # it has no model
    ],
)
def test_scorers_work_beside_engines_if_each_thread_has_a_core(
    overrides: tuple[str, ...], cores: int, gpus: float, expected: bool, tmp_path: Path
) -> None:
    config = threaded(composed(*overrides, f"run_dir={tmp_path}"), cores)
    assert overlap(config, cores, gpus=gpus) is expected
