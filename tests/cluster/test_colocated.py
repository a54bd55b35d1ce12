"""Colocated roles: one has its weights on the GPUs at a time, and deaths do not change the result of the run."""

from __future__ import annotations

import json
import os
import signal
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import pytest

from rlhf_flow import loop
from rlhf_flow.cluster.ray import Ray, RayCluster
from rlhf_flow.cluster.supervisor import FaultTolerance
from rlhf_flow.specs import Model, Place
from rlhf_flow.stages.context import Evaluation
from rlhf_flow.types import SamplingParams
from tests.support import toy

pytestmark = pytest.mark.ray
MODEL = Model(path="toy")
METHODS = ("generate", "score", "start", "logps", "steps", "update", "publish", "save_policy", "save_state")
TOLERANCE = FaultTolerance(start_seconds=120, deaths=100)
SPEC = Ray(
    layout="colocated", engines=2, scorers=2, prompts_per_task=1, object_store_mib=100, fault_tolerance=TOLERANCE
)


@dataclass(frozen=True)
class Guest:
    """Spec of any toy worker, which logs when its weights are loaded and offloaded."""

    part: type
    log: Path
    role: str
    dies_at: tuple[str, int] = ("", 0)  # a method, and the number of its call
    ranks: int = 2
    gpus: int = 1
    loads_model: bool = True

    def open(self, *where: object, mixes: bool = False) -> object:
        place = where[-1]
        assert isinstance(place, Place)
        assert place.shared
        return self.at_work(place)

    def at_work(self, place: Place) -> object:
        worker = self.part(place.rank) if self.part is toy.Learner else self.part()
        name_in_log, awake = str(place.rank) if self.part is toy.Learner else f"process {os.getpid()}", True

        def write(event: str) -> None:
            with self.log.open("a") as log:
                log.write(json.dumps({"role": self.role, "policy": name_in_log, "event": event}) + "\n")

        def turn(on: bool) -> None:
            nonlocal awake
            awake = on
            write("awake" if on else "aside")

        def asked(name: str, method: Callable[..., object]) -> Callable[..., object]:
            calls = 0

            def answer(*arguments: object, **named: object) -> object:
                nonlocal calls
                assert awake, f"{self.role} is asked to {name} while it is aside"
                calls += 1
                if (name, calls) == self.dies_at and place.rank == place.size - 1 and self._first():
                    write("dead")
                    os.kill(os.getpid(), signal.SIGKILL)
                return method(*arguments, **named)

            return answer

        for name in METHODS:
            if name in dir(worker):
                setattr(worker, name, asked(name, getattr(worker, name)))
        worker.step_aside, worker.come_back = lambda: turn(False), lambda: turn(True)
        write("awake")
        return worker

    def _first(self) -> bool:
        try:
            self.log.with_name(f"{self.role} died").touch(exist_ok=False)
        except FileExistsError:
            return False
        return True


@pytest.fixture(scope="module")
def cluster() -> Iterator[RayCluster]:
    opened = SPEC.open()
    assert isinstance(opened, RayCluster)
    yield opened
    opened.close()


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> str:
    return final(toy.run(tmp_path_factory.mktemp("undisturbed"), rounds=3, every=2).ledger.root)


def final(root: Path) -> str:
    return str(json.loads((root / "final.json").read_text())["sha256"])


def run(cluster: RayCluster, root: Path, **dies_at: tuple[str, int]) -> list[dict[str, str]]:
    """The log of a toy run with two scorers."""
    log = root / "log"
    parts = {"engine": toy.Engine, "learner": toy.Learner, "scorer": toy.HigherIsBetter, "judge": toy.HigherIsBetter}
    guests = {role: Guest(part, log, role) for role, part in parts.items()}
    guests |= {role: replace(guests[role], dies_at=at) for role, at in dies_at.items()}
    engine, learner = cluster.engine(guests["engine"], MODEL), cluster.learner(guests["learner"], MODEL)
    scorer, judge = cluster.scorer(guests["scorer"]), cluster.scorer(guests["judge"])
    evaluation = Evaluation(judge, draw=SamplingParams(), every=1)
    made = None
    try:
        cluster.ready()
        made = toy.parts(
            root / "run",
            rounds=3,
            every=2,
            engine=engine,
            learner=learner,
            scorer=scorer,
            evaluation=evaluation,
            disaggregated=False,
        )
        loop.run(made)
    finally:
        if made is not None:
            made.ledger.close()
        for worker in (engine, learner, scorer, judge):
            worker.close()
    return [json.loads(line) for line in log.read_text().splitlines()]


def awake_together(lines: list[dict[str, str]]) -> set[frozenset[str]]:
    """The sets of roles that were awake at the same time."""
    awake, together = set[tuple[str, str]](), set[frozenset[str]]()
    for line in lines:
        worker = line["role"], line["policy"]
        awake = awake | {worker} if line["event"] == "awake" else awake - {worker}
        together.add(frozenset(role for role, _ in awake))
    return together


@pytest.mark.soak
def test_one_role_is_awake_at_a_time_and_the_run_ends_as_in_one_process(
    cluster: RayCluster, undisturbed: str, tmp_path: Path
) -> None:
    lines = run(cluster, tmp_path)
    assert final(tmp_path / "run") == undisturbed
    assert max(map(len, awake_together(lines))) == 1
    assert {line["role"] for line in lines} == {"engine", "learner", "scorer", "judge"}
    assert sum(line["event"] == "aside" for line in lines) > 20, "they hardly took turns"


@pytest.mark.parametrize(
    "dies_at",
    [
        {"engine": ("generate", 3), "scorer": ("score", 1), "learner": ("update", 3)},
        pytest.param(
            {"learner": ("save_state", 1), "engine": ("generate", 5), "judge": ("score", 2)}, marks=pytest.mark.soak
        ),
    ],
    ids=lambda dies_at: " and ".join(dies_at),
)
def test_killed_workers_restart_in_their_slot_and_the_run_ends_the_same(
    dies_at: dict[str, tuple[str, int]], cluster: RayCluster, undisturbed: str, tmp_path: Path
) -> None:
    before = len(cluster.supervisor.deaths)
    lines = run(cluster, tmp_path, **dies_at)
    assert final(tmp_path / "run") == undisturbed
    assert max(map(len, awake_together(lines))) == 1
    assert {line["role"] for line in lines if line["event"] == "dead"} == dies_at.keys()
    assert len(cluster.supervisor.deaths) == before + len(dies_at)


def test_a_worker_killed_in_the_slot_of_another_role_restarts_at_its_next_call(
    cluster: RayCluster, tmp_path: Path
) -> None:
    log, prompts = tmp_path / "log", toy.Prompts().all
    engine = cluster.engine(Guest(toy.Engine, log, "engine"), MODEL)
    learner = cluster.learner(Guest(toy.Learner, log, "learner"), MODEL)
    cluster.ready()
    try:
        learner.start(toy.start())
        (victim, launcher, _), (rank, *_) = cluster.launched[-3], cluster.launched[-1]
        assert launcher.role == "engine"
        os.kill(victim.processes[0].pid, signal.SIGKILL)
        with log.open("a") as file:
            file.write(
                json.dumps({"role": "engine", "policy": f"process {victim.processes[0].pid}", "event": "dead"}) + "\n"
            )
        before = len(cluster.supervisor.deaths)
        assert len(engine.generate(prompts, toy.start(), SamplingParams(n=1), round=1, seed=0).prompts) == len(prompts)
        assert len(cluster.supervisor.deaths) == before + 1
        os.kill(rank.processes[1].pid, signal.SIGKILL)
        assert learner.publish("policy", 1).sha256 == toy.start().sha256
    finally:
        engine.close()
        learner.close()
    assert max(map(len, awake_together([json.loads(line) for line in log.read_text().splitlines()]))) == 1


def test_a_worker_that_cannot_leave_its_gpu_is_refused_before_the_first_round(cluster: RayCluster) -> None:
    class Stays:
        loads_model = True

        def open(self, place: Place) -> toy.HigherIsBetter:
            return toy.HigherIsBetter()

    scorer = cluster.scorer(Stays())
    try:
        with pytest.raises(ValueError, match=r"HigherIsBetter has no step_aside.*Fix: cluster.layout=disaggregated"):
            cluster.ready()
    finally:
        scorer.close()
        del cluster.launched[-2:]
        cluster.scheduler.active = None
