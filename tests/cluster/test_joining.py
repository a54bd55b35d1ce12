"""Starting a cluster on a busy machine, and joining one whose nodes join late or never."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from typing import TYPE_CHECKING

import pytest

from rlhf_flow.cli.main import main
from rlhf_flow.cluster.joining import environment, start
from rlhf_flow.cluster.ray import Ray
from rlhf_flow.cluster.supervisor import FaultTolerance
from rlhf_flow.config import compose as config
from tests.config.test_compose import LOCAL

if TYPE_CHECKING:
    from ray.cluster_utils import Cluster

needs_ray = pytest.mark.skipif(find_spec("ray") is None, reason="Ray is not installed")
NODE = {"num_cpus": 4, "num_gpus": 2, "object_store_memory": 100 << 20, "node_ip_address": "127.0.0.1"}
HEAD = NODE | {"include_dashboard": False}  # of ten processes
LATE = "The current node timed out during startup. This could happen because some of the raylet failed to startup"

DRIVER = """
import sys
from rlhf_flow.cluster.supervisor import FaultTolerance
from rlhf_flow.cluster.ray import Ray
opened = Ray(address=sys.argv[1], nodes=2, fault_tolerance=FaultTolerance(start_seconds=120)).open()
print(f"open, with {opened.gpus:g} GPUs", flush=True)
opened.close()
"""


@contextmanager
def head() -> Iterator[Cluster]:
    """A cluster whose other nodes are still to come."""
    with environment():
        from ray.cluster_utils import Cluster

        cluster = Cluster(initialize_head=True, head_node_args=HEAD)
        try:
            yield cluster
        finally:
            cluster.shutdown()


@pytest.mark.parametrize("nodes", [0, -1])
def test_fewer_nodes_than_one_are_refused(nodes: int) -> None:
    with pytest.raises(ValueError, match=f"cluster.nodes must be >= 1, got {nodes}"):
        Ray(nodes=nodes)


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        ({"start_seconds": 0.0}, "cluster.fault_tolerance.start_seconds must be > 0, or null, got 0.0"),
        ({"silence_seconds": 9.0}, "cluster.fault_tolerance.silence_seconds must be >= 10, .*got 9.0"),
        ({"deaths": -1}, "cluster.fault_tolerance.deaths must be >= 0 .*got -1"),
    ],
)
def test_impossible_fault_tolerance_is_refused(keys: dict[str, float], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        FaultTolerance(**keys)


@needs_ray
@pytest.mark.parametrize("layout", ["ray", "disaggregated", "colocated"])
def test_the_keys_of_nodes_and_fault_tolerance_reach_every_layout(layout: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RAY_ADDRESS", "auto")
    asked = ("cluster.nodes=3", "cluster.fault_tolerance.start_seconds=7", "cluster.fault_tolerance.deaths=0")
    made = config.compose(*LOCAL, f"cluster={layout}", *asked).cluster
    assert (made.nodes, made.fault_tolerance) == (3, FaultTolerance(start_seconds=7.0, deaths=0))


@needs_ray
def test_several_nodes_without_an_address_are_a_mistake_and_nothing_is_started(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    assert main(["run", *LOCAL, "cluster=ray", "cluster.nodes=2"]) == 2
    message = capsys.readouterr().err
    assert "cluster.nodes=2: a cluster that is started here has one node" in message
    assert all(fix in message for fix in ("scripts/launch", "KubeRay", "cluster.address", "RAY_ADDRESS"))
    with pytest.raises(ValueError, match=r"cluster.nodes=2: "):
        Ray(nodes=2).open()
    assert "ray" not in sys.modules or not sys.modules["ray"].is_initialized()


@needs_ray
@pytest.mark.parametrize(("fails", "tries"), [([], 1), ([LATE], 2), ([LATE] * 3, 3), (["no memory"], 1)])
def test_a_node_that_starts_too_late_is_started_again(
    fails: list[str], tries: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    import ray

    asked: list[object] = []
    ahead = list(fails)

    def init(*arguments: object, **named: object) -> None:
        asked.append(named)
        if ahead:
            raise Exception(ahead.pop(0))

    monkeypatch.setattr(ray, "init", init)
    if tries > len(fails):
        start(object_store_mib=100)
    else:
        with pytest.raises(Exception, match=fails[-1][:20]):
            start(object_store_mib=100)
    assert len(asked) == tries


@pytest.mark.ray
def test_the_driver_waits_for_a_node_that_joins_late_and_then_has_its_gpus() -> None:
    with head() as cluster:
        driver = [sys.executable, "-c", DRIVER, cluster.address]
        with subprocess.Popen(driver, stdout=subprocess.PIPE, text=True) as running:
            assert running.stdout is not None
            assert running.stdout.readline() == "1 of 2 nodes has joined; waiting for the others, at most 120 s\n"
            cluster.add_node(**NODE)
            assert running.stdout.read() == "open, with 4 GPUs\n"
        assert running.returncode == 0
        done = subprocess.run(driver, stdout=subprocess.PIPE, text=True, timeout=120)
        assert done.stdout == "open, with 4 GPUs\n"  # all are there, and there is nothing to wait for


@pytest.mark.ray
def test_nodes_that_never_join_end_the_wait_with_the_way_out_and_the_driver_is_free_again() -> None:
    with head() as cluster:
        import ray

        short = Ray(address=cluster.address, nodes=3, fault_tolerance=FaultTolerance(start_seconds=1))
        with pytest.raises(
            ValueError, match=r"cluster.nodes=3: 1 of 3 nodes has joined .*start_seconds=1\. Fix: start"
        ):
            short.open()
        assert not ray.is_initialized()
