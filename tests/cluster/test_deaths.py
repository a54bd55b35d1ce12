"""Workers that die or hang: the run goes on, and ends with the weights of an undisturbed run."""

from __future__ import annotations

import json
import os
import signal
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import pytest

from rlhf_flow import loop
from rlhf_flow.cluster.joining import environment
from rlhf_flow.cluster.placement import DedicatedPlacement
from rlhf_flow.cluster.ray import Ray, RayCluster
from rlhf_flow.cluster.supervisor import FaultTolerance, WorkerError
from rlhf_flow.protocols import TrainingRound
from rlhf_flow.specs import Model, Place
from rlhf_flow.stages.context import CheckpointPolicy, RunContext
from rlhf_flow.types import SamplingParams
from tests.support import toy

pytestmark = pytest.mark.ray
MODEL = Model(path="toy")
TOLERANCE = FaultTolerance(start_seconds=120, silence_seconds=10, deaths=100)
NODE = {"num_cpus": 8, "object_store_memory": 100 << 20, "node_ip_address": "127.0.0.1"}
HEAD = NODE | {"num_cpus": 0, "include_dashboard": False}  # the driver is there, and no worker
SETTINGS = {"rounds": 3, "every": 2}


def once(marker: Path, signal_: int, process: int | None = None) -> None:
    """Send a signal to a process, by default this one, at the first call for `marker`."""
    try:
        marker.touch(exist_ok=False)
    except FileExistsError:
        return
    os.kill(process or os.getpid(), signal_)


@dataclass(frozen=True)
class Victim:
    """Spec of any toy worker; its process gets a signal at one call."""

    part: type
    method: str = ""
    at: int = 0  # the number of the call of that method in the process
    marker: Path = Path()
    signal: int = signal.SIGKILL
    ranks: int = 2
    gpus: int = 1
    loads_model: bool = True

    def open(self, *where: object, mixes: bool = False) -> object:
        place = where[-1]
        assert isinstance(place, Place)
        worker = self.part(place.rank) if self.part is toy.Learner else self.part()
        if self.method and place.rank == place.size - 1:
            self._arm(worker)
        return worker

    def _arm(self, worker: object) -> None:
        method: Callable[..., object] = getattr(worker, self.method)
        calls = 0

        def armed(*arguments: object, **named: object) -> object:
            nonlocal calls
            calls += 1
            if calls == self.at:
                once(self.marker, self.signal)
            return method(*arguments, **named)

        setattr(worker, self.method, armed)


@dataclass(frozen=True)
class Failing(Victim):
    """Raises an error at one call, once; without a marker at every call from there on."""

    error: Exception = RuntimeError()  # noqa: RUF009  # exceptions are not mutated here

    def _arm(self, worker: object) -> None:
        method: Callable[..., object] = getattr(worker, self.method)
        calls = 0

        def armed(*arguments: object, **named: object) -> object:
            nonlocal calls
            calls += 1
            if calls == self.at and (self.marker == Path() or self._first()):
                raise self.error
            return method(*arguments, **named)

        setattr(worker, self.method, armed)

    def _first(self) -> bool:
        try:
            self.marker.touch(exist_ok=False)
        except FileExistsError:
            return False
        return True


class LosesNode(Victim):
    """Loses its node: the signal goes to the parent process, the raylet, with which all workers of the node end."""

    def _arm(self, worker: object) -> None:
        method: Callable[..., object] = getattr(worker, self.method)

        def armed(*arguments: object, **named: object) -> object:
            if not self.marker.exists():
                once(self.marker, self.signal, os.getppid())
                time.sleep(60)  # it ends before that
            return method(*arguments, **named)

        setattr(worker, self.method, armed)


class LosesPeer(Victim):
    """A learner whose rank 0 fails because rank 1 is gone, before rank 1 is dead."""

    def open(self, *where: object, mixes: bool = False) -> object:
        place = where[-1]
        assert isinstance(place, Place)
        worker = toy.Learner(place.rank)
        update, calls = worker.update, 0

        def armed(*arguments: object) -> object:
            nonlocal calls
            calls += 1
            if calls == self.at and not self.marker.exists():
                if place.rank:
                    time.sleep(1)
                    once(self.marker, self.signal)
                raise RuntimeError("connection reset by peer")
            return update(*arguments)

        worker.update = armed
        return worker


@pytest.fixture(scope="module")
def cluster() -> Iterator[RayCluster]:
    spec = Ray(object_store_mib=100, engines=2, scorers=2, prompts_per_task=1, fault_tolerance=TOLERANCE)
    opened = spec.open()
    assert isinstance(opened, RayCluster)
    yield opened
    opened.close()


def parts(cluster: RayCluster, root: Path, *victims: Victim, **settings: object) -> RunContext:
    """A run of the toy whose victims are workers of the cluster; the other parts are in this process."""
    workers: dict[str, object] = {}
    for victim in victims:
        if victim.part is toy.Engine:
            workers["engine"] = cluster.engine(victim, MODEL)
        elif victim.part is toy.Learner:
            workers["learner"] = cluster.learner(victim, MODEL)
        else:
            workers["scorer"] = cluster.scorer(victim)
    cluster.ready()
    return toy.parts(root, **(SETTINGS | settings), **workers)


def run(made: RunContext) -> str:
    try:
        loop.run(made)
    finally:
        made.ledger.close()
        for worker in (made.engine, made.scorer, made.learner):
            worker.close()
    return final(made)


def final(made: RunContext) -> str:
    return str(json.loads((made.ledger.root / "final.json").read_text())["sha256"])


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> str:
    return final(toy.run(tmp_path_factory.mktemp("undisturbed"), **SETTINGS))


@pytest.mark.parametrize(
    "killed",
    [
        [(toy.Engine, "generate", 5), (toy.HigherIsBetter, "score", 2), (toy.Learner, "update", 3)],
        pytest.param([(toy.Learner, "logps", 2)], marks=pytest.mark.soak),
        [(toy.Learner, "save_state", 1)],
    ],
    ids=lambda killed: " ".join(method for _, method, _ in killed),
)
def test_deaths_do_not_change_the_end_of_a_run(
    killed: list[tuple[type, str, int]], cluster: RayCluster, undisturbed: str, tmp_path: Path
) -> None:
    before = len(cluster.supervisor.deaths)
    victims = [Victim(part, method, at, tmp_path / method) for part, method, at in killed]
    assert run(parts(cluster, tmp_path / "run", *victims)) == undisturbed
    assert all(victim.marker.exists() for victim in victims), "no worker was killed"
    assert [death.reason for death in cluster.supervisor.deaths[before:]] == ["it was killed"] * len(killed)


def gpu_errors() -> tuple[Exception, Exception, Exception]:
    """Of an illegal access, of cuBLAS and of NCCL. Without torch at the top of this file its many workers skip it."""
    import torch

    return (
        torch.AcceleratorError("CUDA error: an illegal memory access was encountered"),
        RuntimeError("CUDA error: CUBLAS_STATUS_EXECUTION_FAILED when calling `cublasGemmEx`"),
        torch.distributed.DistBackendError("NCCL error in: ProcessGroupNCCL.cpp:77, remote process exited"),
    )


def test_failures_that_only_a_new_process_mends_count_as_deaths(
    cluster: RayCluster, undisturbed: str, tmp_path: Path
) -> None:
    before = len(cluster.supervisor.deaths)
    illegal, cublas, nccl = gpu_errors()
    victims = [
        Failing(part, method, at, tmp_path / method, error=error)
        for part, method, at, error in (
            (toy.Engine, "generate", 5, illegal),
            (toy.HigherIsBetter, "score", 2, cublas),
            (toy.Learner, "update", 3, nccl),
        )
    ]
    assert run(parts(cluster, tmp_path / "run", *victims)) == undisturbed
    deaths = cluster.supervisor.deaths[before:]
    told = {text for text in map(str, (illegal, cublas, nccl)) if any(text in death.reason for death in deaths)}
    assert told == set(map(str, (illegal, cublas, nccl)))
    assert len(deaths) == 3


def test_the_process_of_a_worker_that_failed_so_ends(cluster: RayCluster, tmp_path: Path) -> None:
    *_, nccl = gpu_errors()
    learner = cluster.learner(Failing(toy.Learner, "publish", 1, tmp_path / "failed", error=nccl, ranks=1), MODEL)
    cluster.ready()
    (first,) = learner.group.processes
    assert learner.publish("policy", 1).sha256 == toy.Learner().publish("policy", 1).sha256
    (second,) = learner.group.processes
    learner.close()
    assert first.pid != second.pid
    end = time.monotonic() + 30
    while alive(first.pid) and time.monotonic() < end:
        time.sleep(0.1)
    assert not alive(first.pid)


def alive(pid: int) -> bool:
    title = Path(f"/proc/{pid}/cmdline")
    return title.exists() and b"ray::" in title.read_bytes()


def test_a_failure_that_comes_back_in_every_process_stops_the_run_with_its_text(cluster: RayCluster) -> None:
    illegal, *_ = gpu_errors()
    scorer = cluster.scorer(Failing(toy.HigherIsBetter, "score", 1, error=illegal))
    cluster.ready()
    before = len(cluster.supervisor.deaths)
    cluster.supervisor.limit = before + 2
    try:
        with pytest.raises(WorkerError, match=r"scorer \d.*illegal memory access.*deaths=.*same command"):
            scorer.score(toy.Engine().generate(toy.Prompts().all, toy.start(), SamplingParams(n=1), round=1, seed=0))
    finally:
        scorer.close()
        cluster.supervisor.limit = 100
    assert len(cluster.supervisor.deaths) == before + 3


def test_an_error_of_a_worker_that_a_new_process_would_raise_again_is_no_death(cluster: RayCluster) -> None:
    before = len(cluster.supervisor.deaths)
    scorer = cluster.scorer(Failing(toy.HigherIsBetter, "score", 1, error=ValueError("CUDA error: of a user")))
    cluster.ready()
    try:
        with pytest.raises(ValueError, match="of a user"):
            scorer.score(toy.Engine().generate(toy.Prompts().all, toy.start(), SamplingParams(n=1), round=1, seed=0))
    finally:
        scorer.close()
    assert len(cluster.supervisor.deaths) == before


def test_a_rank_that_fails_because_another_one_is_dying_is_not_taken_for_the_cause(
    cluster: RayCluster, undisturbed: str, tmp_path: Path
) -> None:
    before = len(cluster.supervisor.deaths)
    assert (
        run(parts(cluster, tmp_path / "run", LosesPeer(toy.Learner, "update", 3, tmp_path / "killed"))) == undisturbed
    )
    (death,) = cluster.supervisor.deaths[before:]
    assert death.worker == "learner rank 1 of 2"


def test_a_learner_may_die_long_after_the_checkpoint_it_started_from_is_gone(
    cluster: RayCluster, tmp_path: Path
) -> None:
    checkpoints = CheckpointPolicy(every=1, steps=None, keep=1)
    whole = toy.run(tmp_path / "whole", rounds=6, checkpoints=checkpoints)
    toy.run(tmp_path / "run", rounds=2, checkpoints=checkpoints)
    marker = tmp_path / "killed"
    victim = Victim(toy.Learner, "update", 8, marker)  # of three calls in each of the rounds 3 to 6
    assert run(parts(cluster, tmp_path / "run", victim, rounds=6, checkpoints=checkpoints)) == final(whole)
    assert marker.exists(), "no worker was killed"
    assert not (tmp_path / "run/rounds/00002/learner").exists(), "the checkpoint was to be gone"


class Stumbling(toy.Learner):
    """Fails at its last step of the first round, behind two that are committed."""

    def update(self, lesson: TrainingRound, first: int, last: int) -> Mapping[str, float]:
        if first == 2:
            raise FloatingPointError("the loss is not finite")
        return super().update(lesson, first, last)


def test_a_learner_may_die_rounds_after_it_went_on_from_inside_of_one(cluster: RayCluster, tmp_path: Path) -> None:
    settings = {"rounds": 3, "every": 9, "steps": 1}
    whole = toy.run(tmp_path / "whole", **settings)
    with pytest.raises(FloatingPointError):
        toy.run(tmp_path / "run", **settings, learner=Stumbling())
    marker = tmp_path / "killed"
    victim = Victim(toy.Learner, "update", 3, marker)  # of one call in the first round, three in each of the others
    assert run(parts(cluster, tmp_path / "run", victim, **settings)) == final(whole)
    assert marker.exists(), "no worker was killed"
    assert not list((tmp_path / "run").glob("rounds/*/learner.step*")), "commits inside a round were to be gone"


def test_hanging_workers_are_killed_and_the_run_ends_the_same(
    cluster: RayCluster, undisturbed: str, tmp_path: Path
) -> None:
    before = len(cluster.supervisor.deaths)
    hanging = ((toy.Engine, "generate"), (toy.Learner, "update"))
    victims = [Victim(part, method, 2, tmp_path / method, signal.SIGSTOP) for part, method in hanging]
    assert run(parts(cluster, tmp_path / "run", *victims)) == undisturbed
    deaths = cluster.supervisor.deaths[before:]
    assert len(deaths) == 2
    assert all(death.reason.startswith("no heartbeat for 1") for death in deaths)


def test_ranks_that_are_closed_give_their_places_back(cluster: RayCluster) -> None:
    placement = cluster.placement
    assert isinstance(placement, DedicatedPlacement)
    before = len(placement.held)
    learner = cluster.learner(Victim(toy.Learner, ranks=2), MODEL)
    cluster.ready()
    assert len(placement.held) == before + 1
    learner.close()
    assert len(placement.held) == before


class Deadly(toy.Engine):
    """Every replica dies of one prompt."""

    def generate(self, prompts: object, *others: object, **named: object) -> object:
        if any(prompt.id == "p3" for prompt in prompts):
            os.kill(os.getpid(), signal.SIGKILL)
        return super().generate(prompts, *others, **named)


def test_a_run_gives_up_after_as_many_deaths_as_it_was_told(cluster: RayCluster) -> None:
    engine = cluster.engine(Victim(Deadly), MODEL)
    cluster.ready()
    cluster.supervisor.limit = len(cluster.supervisor.deaths) + 2
    try:
        with pytest.raises(
            WorkerError, match=r"engine \d died: it was killed.*cluster.fault_tolerance.deaths=.*same command"
        ):
            engine.generate(toy.Prompts().all, toy.start(), SamplingParams(n=1), round=1, seed=0)
    finally:
        engine.close()
        cluster.supervisor.limit = 100


@pytest.mark.parametrize(
    "others",
    [(), pytest.param((Victim(toy.HigherIsBetter), Victim(toy.Learner)), marks=pytest.mark.soak)],
    ids=["of the engines", "of all workers"],
)
def test_a_run_on_three_nodes_of_which_one_is_lost_ends_the_same(
    others: tuple[Victim, ...], cluster: RayCluster, undisturbed: str, tmp_path: Path
) -> None:
    """The last tests of this cluster."""
    cluster.close()  # one process is in one cluster at a time
    with environment():
        from ray.cluster_utils import Cluster

        nodes = Cluster(initialize_head=True, head_node_args=HEAD)
        try:
            for _ in range(2):
                nodes.add_node(**NODE)
            nodes.wait_for_nodes()
            joined = Ray(
                address=nodes.address, nodes=3, engines=2, scorers=2, prompts_per_task=1, fault_tolerance=TOLERANCE
            ).open()
            assert isinstance(joined, RayCluster)
            victim = LosesNode(toy.Engine, "generate", marker=tmp_path / "killed")
            try:
                assert run(parts(joined, tmp_path / "run", victim, *others)) == undisturbed
                assert victim.marker.exists(), "no node was lost"
                assert any(death.worker.startswith("engine") for death in joined.supervisor.deaths)
            finally:
                joined.close()
        finally:
            nodes.shutdown()
