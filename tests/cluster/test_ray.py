"""A run on Ray actors equals one in a single process; errors and deaths of workers reach the caller."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest

from rlhf_flow import loop
from rlhf_flow.cluster.ray import Ray, RayCluster
from rlhf_flow.cluster.supervisor import FaultTolerance, WorkerError
from rlhf_flow.cluster.weight_sync.object_store import Stored
from rlhf_flow.specs import Model, Place
from rlhf_flow.types import Mixture, Policy, Prompt, Rollouts, SamplingParams, Scored
from rlhf_flow.weights.source import InMemoryWeights
from tests.support import toy

pytestmark = pytest.mark.ray
MODEL = Model(path="toy")


@dataclass(frozen=True)
class EngineSpec:
    gpus: int = 1

    def open(self, model: Model, place: Place, *, mixes: bool = False) -> toy.Engine | Telling:
        return Telling() if mixes else toy.Engine()


class Telling:
    """Stands for an engine that mixes: says which weights reached it."""

    def generate(
        self, prompts: Sequence[Prompt], policy: Mixture, draw: SamplingParams, *, round: int, seed: int
    ) -> Rollouts:
        weights = tuple(float(each.weights.load()["w"]) for each in (policy.policy, policy.reference))
        return Rollouts(round, tuple(prompts), tuple(weights for _ in prompts))


class Publishing:
    """Stands for a learner, and for the specification of one."""

    ranks = 1

    def open(self, model: Model, place: Place) -> Publishing:
        return self

    def publish(self, name: str, round: int) -> Policy:
        import torch  # here: a worker needs 2 s for it, and imports this file to open any class of it

        return Policy(name, round, "hash", InMemoryWeights({"w": torch.tensor(float(round))}))


@dataclass(frozen=True)
class LearnerSpec:
    ranks: int = 2

    def open(self, model: Model, place: Place) -> toy.Learner:
        return toy.Learner(place.rank)


class FailingScorer:
    loads_model = True

    def __init__(self, how: str) -> None:
        self.how = how

    def open(self, place: Place) -> FailingScorer:
        if self.how == "opening":
            raise ValueError("the reward model has 7 labels")
        return self

    def score(self, rollouts: Rollouts) -> None:
        if self.how == "dying":
            os.kill(os.getpid(), signal.SIGKILL)
        raise ArithmeticError("scored by mistake")


@pytest.fixture(scope="module")
def cluster() -> Iterator[RayCluster]:
    before = set(os.environ)
    opened = Ray(object_store_mib=100, fault_tolerance=FaultTolerance(start_seconds=120, deaths=0)).open()
    # Ray leaves its own there; but a node that is started from here later must be free to join others.
    assert not {"RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER", "VLLM_HOST_IP", "GLOO_SOCKET_IFNAME"} & (set(os.environ) - before)
    yield opened
    opened.close()


def test_the_cluster_is_on_loopback_even_if_ray_was_imported_before() -> None:
    code = """
import ray
from rlhf_flow.cluster.ray import Ray
opened = Ray(object_store_mib=100).open()
print("at", ray.util.get_node_ip_address())
opened.close()
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120)
    assert "at 127.0.0.1\n" in done.stdout, done.stdout + done.stderr


def final(root: Path) -> str:
    return json.loads((root / "final.json").read_text())["sha256"]


def test_a_run_on_actors_gives_what_it_gives_in_one_process(cluster: RayCluster, tmp_path: Path) -> None:
    toy.run(tmp_path / "here", rounds=3)
    engine, learner = cluster.engine(EngineSpec(), MODEL), cluster.learner(LearnerSpec(), MODEL)
    cluster.ready()
    made = toy.parts(tmp_path / "there", rounds=3, engine=engine, learner=learner)
    loop.run(made)
    made.ledger.close()
    assert final(tmp_path / "there") == final(tmp_path / "here")


def test_the_weights_of_both_policies_of_a_mixture_reach_the_engine(cluster: RayCluster) -> None:
    engine, learner = cluster.engine(EngineSpec(), MODEL, mixes=True), cluster.learner(Publishing(), MODEL)
    cluster.ready()
    mixture = Mixture(learner.publish("policy", 2), learner.publish("policy", 1), 0.3)
    assert isinstance(mixture.policy.weights, Stored)
    told = engine.generate(toy.Prompts().all[:1], mixture, SamplingParams(), round=3, seed=0)
    assert told.responses == ((2.0, 1.0),)


def test_what_a_worker_raises_reaches_the_caller_as_it_was_raised(cluster: RayCluster) -> None:
    scorer = cluster.scorer(FailingScorer("raising"))
    with pytest.raises(ArithmeticError, match="scored by mistake"):
        scorer.score(Rollouts(1, (), ()))


def test_what_a_worker_raises_while_it_opens_is_told_before_the_first_round(cluster: RayCluster) -> None:
    cluster.scorer(FailingScorer("opening"))
    with pytest.raises(ValueError, match="7 labels"):
        cluster.ready()
    cluster.launched.pop()[0].stop()


def test_a_death_is_told_with_the_name_of_the_worker_and_the_way_on(cluster: RayCluster) -> None:
    scorer = cluster.scorer(FailingScorer("dying"))
    with pytest.raises(WorkerError, match=r"process of scorer died.*Start the same command again"):
        scorer.score(Rollouts(1, (), ()))
    cluster.launched.pop()


def test_a_rank_that_dies_ends_the_call_of_all(cluster: RayCluster, tmp_path: Path) -> None:
    learner = cluster.learner(LearnerSpec(ranks=2), MODEL)
    cluster.ready()
    group, *_ = cluster.launched.pop()
    os.kill(group.processes[1].pid, signal.SIGKILL)
    with pytest.raises(WorkerError, match="learner rank 1 of 2"):
        learner.publish("policy", 1)
    group.stop()


def test_a_rule_stays_in_the_drivers_process(cluster: RayCluster) -> None:
    class Rule:
        loads_model = False

        def open(self, place: Place) -> toy.HigherIsBetter:
            return toy.HigherIsBetter()

    rollouts = toy.Engine().generate(toy.Prompts().all, toy.start(), SamplingParams(n=2), round=1, seed=0)
    assert cluster.scorer(Rule()).score(rollouts).utility.shape == (toy.PROMPTS, 2)


@dataclass(frozen=True)
class Doubtful:
    """The spec of a scorer that asks another one, and that scorer. It returns the ids of both processes."""

    base: object = None
    loads_model: bool = True

    def wrap(self, scorer: object) -> Doubtful:
        return Doubtful(scorer)

    def score(self, rollouts: Rollouts) -> tuple[int, int]:
        return os.getpid(), self.base.score(rollouts).counts["process"]


class Somewhere:
    loads_model = True

    def open(self, place: Place) -> Somewhere:
        return self

    def score(self, rollouts: Rollouts) -> Scored:
        return Scored(rollouts, np.zeros((0, 2)), np.zeros((0, 2, 2)), counts={"process": os.getpid()})


def test_a_wrapping_scorer_stays_in_the_drivers_process_and_its_base_does_not(cluster: RayCluster) -> None:
    judge = cluster.scorer(Doubtful(Somewhere()))
    cluster.ready()
    asking, asked = judge.score(Rollouts(1, (), ()))
    assert asking == os.getpid() != asked
