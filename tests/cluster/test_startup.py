"""How long a run waits for workers that open slowly, and what it prints meanwhile."""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import dataclass

import pytest

from rlhf_flow.cluster import startup
from rlhf_flow.cluster.ray import Ray, RayCluster
from rlhf_flow.cluster.supervisor import FaultTolerance, WorkerError
from rlhf_flow.specs import Place
from tests.support import toy

PATIENCE = 12.0  # seconds
LONGER = 18.0


@dataclass(frozen=True)
class Slow:
    """Spec of a scorer that opens slowly."""

    loads: bool  # 4 MiB twice a second
    loads_model: bool = True

    def open(self, place: Place) -> toy.HigherIsBetter:
        until, loaded = time.monotonic() + LONGER, list[bytes]()
        while time.monotonic() < until:
            if self.loads:
                loaded.append(b"x" * (4 << 20))
            time.sleep(0.5)
        return toy.HigherIsBetter()


@pytest.fixture(scope="module")
def cluster() -> Iterator[RayCluster]:
    spec = Ray(object_store_mib=100, fault_tolerance=FaultTolerance(start_seconds=PATIENCE, deaths=100))
    opened = spec.open()
    assert isinstance(opened, RayCluster)
    yield opened
    opened.close()


def test_the_patience_grows_with_the_weights_unless_it_is_given() -> None:
    seventy_billion = 2 * 70 * 10**9  # bytes, in bfloat16
    assert FaultTolerance().patience == FaultTolerance().sized(0).patience == 300
    assert FaultTolerance().sized(seventy_billion).patience == 1000
    assert FaultTolerance(start_seconds=60).sized(seventy_billion).patience == 60


@pytest.mark.ray
def test_a_worker_that_loads_for_longer_than_the_patience_opens(
    cluster: RayCluster, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(startup, "REPORT_SECONDS", 5.0)
    scorer = cluster.scorer(Slow(loads=True))
    cluster.ready()
    scorer.close()
    first, *_, last = [line for line in capsys.readouterr().out.splitlines() if "workers" in line]
    assert first.startswith("waiting for 1 of 1 workers for ")
    assert "scorer (" in first
    assert last.startswith("all workers are up after ")


@pytest.mark.ray
def test_a_worker_that_hangs_as_it_opens_ends_the_run_and_says_so(cluster: RayCluster) -> None:
    scorer = cluster.scorer(Slow(loads=False))
    with pytest.raises(WorkerError, match=r"scorer has not opened: no progress for 1\d s \(.* in memory.*Fix: raise"):
        cluster.ready()
    scorer.close()
    cluster.launched.pop()
