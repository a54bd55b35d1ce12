"""scripts/launch/ssh.sh: what arrives on the other machines, and that nothing stays there."""

from __future__ import annotations

import signal
from pathlib import Path

import psutil
import pytest

from tests.support.machines import Machines, eventually, machines

pytestmark = pytest.mark.slow

SSH = "scripts/launch/ssh.sh"
HARD = 'it\'s "quoted"  $HOME `id` \\ *\nand has a second line; ü'


@pytest.fixture
def cluster(tmp_path: Path) -> Machines:
    return machines(tmp_path)


def hosts(cluster: Machines, *names: str) -> str:
    file = cluster.folder / "my hosts"
    file.write_text("# the other machines\n\n" + "".join(f"  {name} # fast\n" for name in names))
    return str(file)


def test_words_and_environment_arrive_as_they_were_on_every_machine(cluster: Machines) -> None:
    names = ["127.0.0.2", "127.0.0.3"]
    kept = {"HF_HOME": HARD, "MY_KEY": HARD, "NOT_MINE": "stays", "LAUNCH_FORWARD": "HF_HOME MY_KEY"}
    returned, said = cluster.run([SSH, hosts(cluster, *names), "run", HARD, ""], STATUS="5", **kept)
    assert returned == 5, said
    (run,), (head,), workers = cluster.told("run"), cluster.told("head"), cluster.told("worker")
    assert run["argv"] == ["run", HARD, ""]
    assert {each["host"] for each in cluster.told("ssh")} == set(names)
    assert len(workers) == 2
    for worker in workers:
        assert worker["options"]["address"] == run["environ"]["RAY_ADDRESS"] == f"127.0.0.1:{head['options']['port']}"
        assert worker["environ"]["HF_HOME"] == worker["environ"]["MY_KEY"] == HARD
        assert "NOT_MINE" not in worker["environ"]
    assert cluster.order()[-3:] == ["worker ended", "worker ended", "head ended"]
    assert cluster.left() == []
    assert list(cluster.temporary.iterdir()) == []


def test_secrets_go_along_and_are_on_no_command_line(cluster: Machines) -> None:
    file = hosts(cluster, "127.0.0.2")
    cluster.run([SSH, file, "run"], MY_KEY="a secret", LAUNCH_FORWARD="MY_KEY")
    (worker,) = cluster.told("worker")
    token = worker["environ"]["RAY_AUTH_TOKEN"]
    assert token == cluster.told("head")[0]["environ"]["RAY_AUTH_TOKEN"]
    assert not any(hidden in each["command"] for each in cluster.told("ssh") for hidden in (token, "a secret"))


def test_ctrl_c_stops_the_run_and_then_the_nodes(cluster: Machines) -> None:
    with cluster.launched([SSH, hosts(cluster, "127.0.0.2"), "run", "long"]) as launcher:
        assert eventually(lambda: cluster.told("at work"))
        launcher.send_signal(signal.SIGINT)
        said, _ = launcher.communicate(timeout=60)
    assert launcher.returncode == 130, said
    assert cluster.order()[-3:] == ["stopped", "worker ended", "head ended"]
    assert cluster.left() == []


def test_nodes_of_a_launcher_that_was_killed_end_with_its_run(cluster: Machines) -> None:
    with cluster.launched([SSH, hosts(cluster, "127.0.0.2"), "run", "long"]) as launcher:
        assert eventually(lambda: cluster.told("at work"))
        launcher.kill()
        launcher.wait(timeout=60)
        assert cluster.told("worker ended") == []
        psutil.Process(cluster.told("run")[0]["pid"]).kill()
        assert eventually(lambda: cluster.told("worker ended") and cluster.told("head ended"))
    assert eventually(lambda: not cluster.left())
    assert list(cluster.temporary.iterdir()) == []


def test_a_machine_that_cannot_be_reached_ends_the_launch(cluster: Machines) -> None:
    returned, said = cluster.run([SSH, hosts(cluster, "127.0.0.2", "unreachable"), "run"])
    assert returned == 1, said
    assert cluster.told("run") == []
    assert cluster.left() == []


def test_a_first_machine_that_cannot_be_reached_is_named(cluster: Machines) -> None:
    returned, said = cluster.run([SSH, hosts(cluster, "unreachable"), "run"])
    assert (returned, "cannot reach unreachable" in said) == (1, True), said


def test_without_a_file_of_hosts_it_says_how_it_is_used(cluster: Machines) -> None:
    returned, said = cluster.run([SSH, "no/such/file", "run"])
    assert (returned, "usage" in said) == (2, True), said
