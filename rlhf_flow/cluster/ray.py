"""Parts on a Ray cluster: one actor per engine, per scorer with a model, and per learner rank.

Proxies have the signatures of what they stand for and block; nothing above this folder knows about Ray. Weights travel
through the object store: the learner puts them there once, and an engine that needs them takes them from there.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rlhf_flow.cluster.crew import Crew, Worker
from rlhf_flow.needs import require
from rlhf_flow.protocols import Engine, Learner, Scorer
from rlhf_flow.specs import Cluster, EngineSpec, LearnerSpec, Model, Place, ScorerSpec
from rlhf_flow.tables import Lesson, Table
from rlhf_flow.types import Draw, Mixture, Policy, Prompt, Rollouts, Scored

if TYPE_CHECKING:
    import pyarrow as pa

LOOPBACK = "127.0.0.1"


@dataclass(frozen=True)
class Ray:
    """A Ray cluster: the one at `address` (or in RAY_ADDRESS), else one started on this machine for the run."""

    address: str | None = None
    object_store_mib: int = 512  # of a cluster started here
    gpu_share: float = 1.0  # of a GPU, for each worker where there are GPUs; 0.25 lets four workers share one
    start_seconds: float = 300.0  # longest wait for all workers to be up

    def __post_init__(self) -> None:
        if self.object_store_mib < 80:
            raise ValueError(f"cluster.object_store_mib must be >= 80, got {self.object_store_mib}")
        if self.gpu_share <= 0:
            raise ValueError(f"cluster.gpu_share must be > 0, got {self.gpu_share}")
        if self.start_seconds <= 0:
            raise ValueError(f"cluster.start_seconds must be > 0, got {self.start_seconds}")

    @property
    def one_process(self) -> bool:
        return False

    def check(self, *, ranks: int) -> None:
        """Raise ValueError where Ray is missing."""
        require("ray", part="cluster=ray", instead="cluster=local")

    def open(self) -> Cluster:
        address = self.address or os.environ.get("RAY_ADDRESS")
        if address is None:
            os.environ.update(_environment())
        import ray

        if address is None:
            # Logical CPUs: actors share the machine's cores, so that two cores suffice for any number of ranks.
            ray.init(
                address="local",  # a cluster of its own, also beside one that runs here already
                num_cpus=max(64, os.cpu_count() or 1),
                object_store_memory=self.object_store_mib << 20,
                include_dashboard=False,
                log_to_driver=False,
                logging_level="ERROR",
            )
        else:
            ray.init(address=address, log_to_driver=False, logging_level="ERROR")
        return RayCluster(
            local=address is None,
            start_seconds=self.start_seconds,
            gpu_share=self.gpu_share,
            gpus=ray.cluster_resources().get("GPU", 0.0),
        )


@dataclass
class RayCluster:
    local: bool
    start_seconds: float
    gpu_share: float
    gpus: float  # 0 on a cluster of CPUs
    crews: list[Crew] = field(default_factory=list)

    def engine(self, spec: EngineSpec, model: Model, *, mixes: bool = False) -> Engine:
        return RayEngine(self._crew("engine", 1, lambda place: spec.open(model, place, mixes=mixes), gpus=spec.gpus))

    def scorer(self, spec: ScorerSpec) -> Scorer:
        if not spec.loads_model:
            return spec.open(Place())
        return RayScorer(self._crew("scorer", 1, lambda place: spec.open(place)))

    def learner(self, spec: LearnerSpec, model: Model) -> Learner:
        return RayLearner(self._crew("learner", spec.ranks, lambda place: spec.open(model, place)))

    def ready(self) -> None:
        """Wait until every worker is up. Raises WorkerError, or what a worker raised while it started."""
        for crew in self.crews:
            if crew.handles:
                crew.ready(timeout=self.start_seconds)

    def close(self) -> None:
        import ray

        for crew in self.crews:
            crew.dismiss()
        ray.shutdown()

    def _crew(self, name: str, size: int, opener: Any, *, gpus: int = 1) -> Crew:
        """`size` processes; `opener(place)` makes the worker in each. `gpus` is what one of them could use alone."""
        import ray

        on_gpu = self.gpus > 0
        share = gpus * self.gpu_share if on_gpu else 0.0
        left = self.gpus - sum(crew.gpus * len(crew.handles) for crew in self.crews)
        if size * share > left:
            raise ValueError(
                f"the {name} needs {size} x {share:g} GPUs, but the cluster has only {left:g} left. "
                "Try a smaller cluster.gpu_share, fewer learner.ranks, or more GPUs."
            )
        handles = [
            ray.remote(type(f"{name}_{rank}", (Worker,), {}))  # titles its process ray::engine_0.call
            .options(
                num_cpus=1,
                num_gpus=share,
                max_restarts=0,
            )
            .remote()
            for rank in range(size)
        ]
        address, port = LOOPBACK, 0
        if size > 1:
            found, port = ray.get(handles[0].meeting_point.remote(), timeout=self.start_seconds)
            address = LOOPBACK if self.local else found
        for rank, handle in enumerate(handles):
            handle.open.remote(
                opener, Place(rank=rank, size=size, address=address, port=port, device="cuda" if on_gpu else "cpu")
            )
        crew = Crew(name, handles, gpus=share)
        self.crews.append(crew)
        return crew


def _environment() -> dict[str, str]:
    """Of a cluster started here, and so of its workers' processes.

    Not by a runtime_env: Ray starts workers that have one through a shell, and fails where the interpreter's path
    holds a space (ray 2.60). What the workers of a run on one machine listen on, no other machine can reach.
    """
    return {
        "TOKENIZERS_PARALLELISM": "false",
        "RLHF_FLOW_DRIVER": str(os.getpid()),  # `ps e` tells whose worker a process is
        "GLOO_SOCKET_IFNAME": "lo",
        "VLLM_HOST_IP": LOOPBACK,
        # Without this Ray's servers listen on every interface. It is the one way to 127.0.0.1: ray.init turns that
        # address, given by name, into an outer one (ray/_private/services.py, resolve_ip_for_localhost).
        "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0",
    }


@dataclass(frozen=True)
class RayEngine:
    crew: Crew

    def generate(
        self, prompts: Sequence[Prompt], policy: Policy | Mixture, draw: Draw, *, round: int, seed: int
    ) -> Rollouts:
        return self.crew.ask("generate", prompts, policy, draw, round=round, seed=seed)

    def close(self) -> None:
        self.crew.dismiss()


@dataclass(frozen=True)
class RayScorer:
    crew: Crew

    def score(self, rollouts: Rollouts) -> Scored:
        return self.crew.ask("score", rollouts)

    def close(self) -> None:
        self.crew.dismiss()


@dataclass(frozen=True)
class RayLearner:
    crew: Crew

    def start(self, policy: Policy) -> None:
        self.crew.ask("start", policy)

    def logps(self, responses: Sequence[Table], wanted: Sequence[str], policy: Policy) -> pa.Table:
        return self.crew.ask("logps", responses, wanted, policy)

    def steps(self, lesson: Lesson) -> int:
        return self.crew.ask("steps", lesson)

    def update(self, lesson: Lesson, first: int, last: int) -> Mapping[str, float]:
        return self.crew.ask("update", lesson, first, last)

    def publish(self, name: str, round: int) -> Policy:
        return self.crew.ask("publish", name, round)

    def average(self, name: str, round: int, terms: Sequence[tuple[Policy, float]]) -> Policy:
        return self.crew.ask("average", name, round, terms)

    def save_policy(self, folder: Path, policy: Policy | None = None) -> None:
        self.crew.ask("save_policy", folder, policy)

    def save_state(self, folder: Path) -> None:
        self.crew.ask("save_state", folder)

    def load_state(self, folder: Path) -> None:
        self.crew.ask("load_state", folder)

    def close(self) -> None:
        self.crew.dismiss()
