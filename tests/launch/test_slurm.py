"""scripts/launch/slurm.sbatch, run as SLURM runs it: signals, requeue, and what is left when it has ended."""

from __future__ import annotations

import signal
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

from tests.support.machines import Machines, eventually, machines

pytestmark = pytest.mark.slow

JOB = "scripts/launch/slurm.sbatch"
THREE = "127.0.0.1,127.0.0.2,127.0.0.3"


@pytest.fixture
def cluster(tmp_path: Path) -> Machines:
    return machines(tmp_path)


WORDS = ["run", "model.path=my model", "x='$HOME'", ""]


@pytest.fixture(scope="module")
def done(tmp_path_factory: pytest.TempPathFactory) -> Machines:
    """After a job on three nodes whose run has failed."""
    cluster = machines(tmp_path_factory.mktemp("done") / "f")
    returned, said = cluster.run([JOB, *WORDS], SLURM_JOB_NODELIST=THREE, STATUS="3")
    assert returned == 3, said  # the run's own
    return cluster


def test_the_same_command_runs_on_the_cluster(done: Machines) -> None:
    (run,), (head,), workers = done.told("run"), done.told("head"), done.told("worker")
    assert run["argv"] == WORDS
    address = f"127.0.0.1:{head['options']['port']}"
    assert run["environ"]["RAY_ADDRESS"] == address
    assert [worker["options"]["address"] for worker in workers] == [address] * 2


def test_the_head_ends_last(done: Machines) -> None:
    assert done.order()[-3:] == ["worker ended", "worker ended", "head ended"]


def test_nothing_is_left_of_a_run_that_failed(done: Machines) -> None:
    assert done.left() == []
    assert list(done.temporary.iterdir()) == []


def test_workers_are_one_task_on_each_of_the_other_nodes(done: Machines) -> None:
    (srun,) = done.told("srun")
    assert {"--nodes=2", "--ntasks=2", "--nodelist=127.0.0.2,127.0.0.3", "--overlap"} <= set(srun["argv"])


def test_an_interpreter_whose_path_has_a_space_is_refused_before_any_node_starts(cluster: Machines) -> None:
    python = cluster.folder / "my python"
    python.symlink_to(cluster.folder / "bin" / "python")
    returned, said = cluster.run([JOB, *WORDS], SLURM_JOB_NODELIST=THREE, LAUNCH_PYTHON=str(python))
    assert returned == 2
    assert f"LAUNCH_PYTHON must be a path without a space, got {python}" in said
    assert cluster.told("head") == cluster.told("run") == []


def test_two_jobs_have_tokens_and_ports_of_their_own(tmp_path: Path) -> None:
    seen = []
    for number in range(2):
        cluster = machines(tmp_path / str(number))
        cluster.run([JOB, "run"], SLURM_JOB_NODELIST="127.0.0.1,127.0.0.2")
        started = [*cluster.told("head"), *cluster.told("worker"), *cluster.told("run")]
        tokens = {each["environ"]["RAY_AUTH_TOKEN"] for each in started}
        assert {each["environ"]["RAY_AUTH_MODE"] for each in started} == {"token"}
        assert len(tokens) == 1
        assert not any(token in word for token in tokens for srun in cluster.told("srun") for word in srun["argv"])
        seen.append(tokens.pop())
    assert len(set(seen)) == 2
    assert all(len(token) == 64 for token in seen)


def test_on_one_node_rlhf_flow_starts_ray_itself(cluster: Machines) -> None:
    returned, said = cluster.run([JOB, "run"], SLURM_JOB_NODELIST="127.0.0.1", RAY_ADDRESS="another:6379")
    assert returned == 0, said
    assert cluster.told("head") == cluster.told("worker") == []
    assert "RAY_ADDRESS" not in cluster.told("run")[0]["environ"]


def test_before_the_time_limit_the_run_is_interrupted_and_the_job_requeued_when_all_ended(cluster: Machines) -> None:
    with cluster.launched([JOB, "run", "long"], SLURM_JOB_NODELIST=THREE) as job:
        assert eventually(lambda: cluster.told("at work"))
        job.send_signal(signal.SIGUSR1)
        said, _ = job.communicate(timeout=60)
    assert job.returncode == 0, said
    assert cluster.order()[-5:] == ["stopped", "worker ended", "worker ended", "head ended", "scontrol"]
    assert cluster.told("scontrol")[-1]["argv"] == ["requeue", "42"]
    assert cluster.left() == []


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_cancelled_job_stops_cleanly_and_does_not_come_back(cluster: Machines, number: signal.Signals) -> None:
    with cluster.launched([JOB, "run", "long"], SLURM_JOB_NODELIST=THREE) as job:
        assert eventually(lambda: cluster.told("at work"))
        job.send_signal(number)
        said, _ = job.communicate(timeout=60)
    assert job.returncode == 130, said
    assert cluster.order()[-4:] == ["stopped", "worker ended", "worker ended", "head ended"]
    assert cluster.left() == []


def test_a_run_that_does_not_hear_is_ended(cluster: Machines) -> None:
    where = {"SLURM_JOB_NODELIST": "127.0.0.1,127.0.0.2", "LAUNCH_STOP_SECONDS": "1"}
    with cluster.launched([JOB, "run", "long", "deaf"], **where) as job:
        assert eventually(lambda: cluster.told("at work"))
        job.terminate()
        said, _ = job.communicate(timeout=60)
    assert job.returncode == 137, said
    assert cluster.told("stopped") == []
    assert cluster.left() == []


@pytest.mark.parametrize("role", ["head", "worker"])
def test_where_a_node_does_not_start_nothing_runs_and_its_words_are_told(cluster: Machines, role: str) -> None:
    returned, said = cluster.run([JOB, "run"], SLURM_JOB_NODELIST="127.0.0.1,127.0.0.2", LAUNCH_FAILS=role)
    assert returned == 1, said
    assert f"the {role} has no luck" in said
    assert cluster.told("run") == []
    assert cluster.left() == []
    assert list(cluster.temporary.iterdir()) == []


def test_a_job_that_was_submitted_from_another_folder_says_so(cluster: Machines) -> None:
    returned, said = cluster.run([JOB, "run"], SLURM_JOB_NODELIST=THREE, SLURM_SUBMIT_DIR=str(cluster.temporary))
    assert returned == 2
    assert "from the repository's root" in said


@pytest.mark.skipif(
    " " in sys.executable, reason="Ray (2.60) starts a server of its head by a shell that splits the path"
)
@pytest.mark.ray
@pytest.mark.soak
def test_real_ray_on_three_nodes_interrupted_before_the_time_limit() -> None:
    if subprocess.run(["unshare", "--net", "true"], stderr=subprocess.DEVNULL).returncode:
        pytest.skip("needs a network of its own, so that nothing listens on this machine's")
    with tempfile.TemporaryDirectory(prefix="l", dir="/tmp") as folder:  # short: a socket's path has at most 107 bytes
        cluster = machines(Path(folder) / "f", real=True)
        nodes = "10.77.0.1,10.77.0.2,10.77.0.3"
        with cluster.launched([JOB, "run", "long"], SLURM_JOB_NODELIST=nodes) as job:
            eventually(lambda: cluster.told("at work") or job.poll() is not None, seconds=240)
            job.send_signal(signal.SIGUSR1)
            said, _ = job.communicate(timeout=120)
        assert job.returncode == 0, said
        (found,) = cluster.told("cluster")
        assert len(found["nodes"]) == 3
        assert found["places"] == found["nodes"]
        assert cluster.order()[-2:] == ["stopped", "scontrol"]
        assert cluster.left() == []
        assert list(cluster.temporary.iterdir()) == []
