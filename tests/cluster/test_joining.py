"""A cluster that is joined while its nodes are still on their way, and one whose nodes never come."""

from __future__ import annotations

import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

import pytest

from rlhf_flow import config
from rlhf_flow.__main__ import main
from rlhf_flow.cluster.patience import Patience
from rlhf_flow.cluster.ray import Ray, RayCluster
from rlhf_flow.cluster.starting import environment
from tests.test_config import LOCAL

if TYPE_CHECKING:
    from ray.cluster_utils import Cluster

NODE = {"num_cpus": 4, "num_gpus": 2, "object_store_memory": 100 << 20, "node_ip_address": "127.0.0.1"}


@contextmanager
def head() -> Iterator[Cluster]:
    """A cluster whose other nodes are still to come."""
    from ray.cluster_utils import Cluster

    with environment():
        cluster = Cluster(initialize_head=True, head_node_args=NODE)
        try:
            yield cluster
        finally:
            cluster.shutdown()


@pytest.mark.parametrize("nodes", [0, -1])
def test_fewer_nodes_than_one_are_refused(nodes: int) -> None:
    with pytest.raises(ValueError, match=f"cluster.nodes must be >= 1, got {nodes}"):
        Ray(nodes=nodes)


@pytest.mark.parametrize(
    ("keys", "told"),
    [
        ({"start_seconds": 0.0}, "cluster.patience.start_seconds must be > 0, got 0.0"),
        ({"silence_seconds": 9.0}, "cluster.patience.silence_seconds must be >= 10, .*got 9.0"),
        ({"deaths": -1}, "cluster.patience.deaths must be >= 0 .*got -1"),
    ],
)
def test_no_patience_at_all_is_refused(keys: dict[str, float], told: str) -> None:
    with pytest.raises(ValueError, match=told):
        Patience(**keys)


@pytest.mark.parametrize("layout", ["ray", "disaggregated", "colocated"])
def test_the_keys_of_nodes_and_patience_reach_every_layout(layout: str, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("ray")
    monkeypatch.setenv("RAY_ADDRESS", "auto")
    asked = ("cluster.nodes=3", "cluster.patience.start_seconds=7", "cluster.patience.deaths=0")
    made = config.compose(*LOCAL, f"cluster={layout}", *asked).cluster
    assert (made.nodes, made.patience) == (3, Patience(start_seconds=7.0, deaths=0))


def test_several_nodes_without_an_address_are_a_mistake_and_nothing_is_started(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("ray")
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    assert main(["run", *LOCAL, "cluster=ray", "cluster.nodes=2"]) == 2
    told = capsys.readouterr().err
    assert "cluster.nodes must be 1 without a cluster to join, got 2" in told
    assert all(way_out in told for way_out in ("scripts/launch", "KubeRay", "cluster.address", "RAY_ADDRESS"))
    with pytest.raises(ValueError, match=r"cluster.nodes must be 1"):
        Ray(nodes=2).open()
    assert "ray" not in sys.modules or not sys.modules["ray"].is_initialized()


@pytest.mark.heavy
def test_the_driver_waits_for_a_node_that_joins_late_and_then_has_its_gpus(capsys: pytest.CaptureFixture[str]) -> None:
    with head() as cluster:
        asked = Ray(address=cluster.address, nodes=2, patience=Patience(start_seconds=120))
        said: list[str] = []

        def arrive() -> None:
            while not said:
                said.extend(line for line in capsys.readouterr().out.splitlines() if "waiting" in line)
                time.sleep(0.05)
            cluster.add_node(**NODE)

        late = threading.Thread(target=arrive)
        late.start()
        opened = asked.open()
        late.join()
        assert isinstance(opened, RayCluster)
        assert opened.gpus == 4
        opened.close()
        assert said == ["1 of 2 nodes has joined; waiting for the others, at most 120 s"]
        assert "waiting" not in capsys.readouterr().out
        asked.open().close()  # they are all there
        assert "waiting" not in capsys.readouterr().out


@pytest.mark.heavy
def test_nodes_that_never_join_end_the_wait_with_the_way_out_and_the_driver_is_free_again() -> None:
    import ray

    with head() as cluster:
        short = Ray(address=cluster.address, nodes=3, patience=Patience(start_seconds=1))
        with pytest.raises(ValueError, match=r"cluster.nodes .*start_seconds=1, got 3: 1 of 3 nodes has joined.*Start"):
            short.open()
        assert not ray.is_initialized()
