"""A run on a Ray cluster: one actor per engine, per scorer that loads a model, and per learner rank.

Disaggregated, each worker has GPUs of its own (`placement`). Colocated, all roles share the same GPUs and take turns
(`gpu_sharing`, `bundles`). The driver gets blocking clients (`clients`). Weights travel by a broadcast or
the object store (`weight_sync`).
"""

from __future__ import annotations

import os
from dataclasses import dataclass, field, replace
from functools import partial
from typing import TYPE_CHECKING, Protocol, runtime_checkable

from rlhf_flow.cluster.bundles import SHARE, ActorLauncher, Opener, SharedPlacement
from rlhf_flow.cluster.clients import RayLearner, RayScorer
from rlhf_flow.cluster.engine_client import RayEngine
from rlhf_flow.cluster.gpu_sharing import GpuScheduler, GpuSlot
from rlhf_flow.cluster.heartbeat import HeartbeatMonitor
from rlhf_flow.cluster.joining import MIB, STORE_MIB, alive, join, start, store_mib
from rlhf_flow.cluster.placement import DedicatedPlacement, Demand, Placement
from rlhf_flow.cluster.startup import open_all
from rlhf_flow.cluster.supervisor import FaultTolerance, Supervisor
from rlhf_flow.cluster.weight_sync.direct import DirectSync
from rlhf_flow.cluster.weight_sync.transport import Transfer
from rlhf_flow.cluster.worker_group import WorkerGroup
from rlhf_flow.cluster.worker_pool import Pool
from rlhf_flow.protocols import Engine, Learner, Scorer
from rlhf_flow.specs import Broadcasts, Cluster, EngineSpec, LearnerSpec, Model, Place, Receives, ScorerSpec
from rlhf_flow.system import machine
from rlhf_flow.system.optional_deps import require

if TYPE_CHECKING:
    from ray.actor import ActorHandle

ROLES = ("engine", "scorer", "learner")
LAYOUTS = ("disaggregated", "colocated")


@dataclass(frozen=True)
class Ray:
    """A Ray cluster: the one at `address` or RAY_ADDRESS, else a new one on this machine for the run."""

    address: str | None = None  # of a cluster to join; auto: the running one; null: start one on this machine
    nodes: int = 1  # nodes of a joined cluster, with its head; a run waits until so many have joined
    layout: str = "disaggregated"  # disaggregated (GPUs for each worker) | colocated (GPUs for all, in turns)
    object_store_mib: int | None = None  # of a cluster started on this machine; null: for the policies of a round
    engines: int = 1  # replicas of the engine; the answers do not depend on their number
    scorers: int = 1  # replicas of each scorer that loads a model
    gpu_share: float = 1.0  # GPUs per worker, if there are any; with 0.25 four workers share one
    resources: dict[str, dict[str, float]] = field(default_factory=dict)  # engine, scorer, learner -> of your own, each
    prompts_per_task: int = 16  # a quarter of the prompts that a scorer gets at once
    transfer: Transfer = field(default_factory=Transfer)  # of weights
    fault_tolerance: FaultTolerance = field(default_factory=FaultTolerance)  # of nodes and workers

    def __post_init__(self) -> None:
        for key, rule, ok in (
            ("nodes", ">= 1", self.nodes >= 1),
            ("object_store_mib", ">= 80, or null", self.object_store_mib is None or self.object_store_mib >= 80),
            ("engines", ">= 1", self.engines >= 1),
            ("scorers", ">= 1", self.scorers >= 1),
            ("gpu_share", "> 0", self.gpu_share > 0),
            ("layout", f"one of {', '.join(LAYOUTS)}", self.layout in LAYOUTS),
            ("resources", f"of {', '.join(ROLES)}", set(self.resources) <= set(ROLES)),
            ("prompts_per_task", ">= 1, a number of prompts", self.prompts_per_task >= 1),
        ):
            if not ok:
                raise ValueError(f"cluster.{key} must be {rule}, got {vars(self)[key]}")
        for key, given in (("gpu_share", self.gpu_share != 1.0), ("resources", bool(self.resources))):
            if self.layout == "colocated" and given:
                raise ValueError(
                    f"cluster.{key}={vars(self)[key]}: with cluster.layout=colocated all roles are in the same places. "
                    "Fix: leave it out, or set cluster.layout=disaggregated."
                )

    @property
    def in_process(self) -> bool:
        return False

    @property
    def disaggregated(self) -> bool:
        return self.layout == "disaggregated"

    def sized(self, *, policies: int, weights: int) -> Ray:
        """The object store takes at most 0.9 of the shared memory, beyond which Ray uses a disk."""
        free = machine.shared_memory()
        wanted = store_mib(policies) if free is None else min(store_mib(policies), int(0.9 * free) // MIB)
        store = max(STORE_MIB, wanted) if self.object_store_mib is None else self.object_store_mib
        return replace(self, object_store_mib=store, fault_tolerance=self.fault_tolerance.sized(weights))

    def check(self, *, ranks: int) -> None:
        """Raise ValueError if Ray is missing, or if `nodes` needs a cluster to join."""
        require("ray", part="cluster=ray", instead="cluster=local")
        self._address()

    def _address(self) -> str | None:
        """Of the cluster to join; None: start one. Raises ValueError if that cannot be."""
        address = self.address or os.environ.get("RAY_ADDRESS") or None
        if address is None and self.nodes > 1:
            raise ValueError(
                f"cluster.nodes={self.nodes}: a cluster that is started here has one node. Fix: start Ray on all nodes "
                "(scripts/launch, KubeRay, or ray start), and set cluster.address or RAY_ADDRESS to the head's address."
            )
        return address

    def open(self) -> Cluster:
        address = self._address()
        if address is None:
            start(object_store_mib=self.object_store_mib or STORE_MIB)
        else:
            join(address, nodes=self.nodes, seconds=self.fault_tolerance.patience)
        import ray
        from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

        here = NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=False)
        monitor = ray.remote(HeartbeatMonitor).options(num_cpus=0, scheduling_strategy=here).remote()
        gpus = sum(node["Resources"].get("GPU", 0.0) for node in alive())
        supervisor = Supervisor(self.fault_tolerance.deaths)
        return RayCluster(
            self,
            local=address is None,
            gpus=gpus,
            monitor=monitor,
            supervisor=supervisor,
            scheduler=GpuScheduler(not self.disaggregated, supervisor),
            placement=DedicatedPlacement()
            if self.disaggregated
            else SharedPlacement(gpus, self.fault_tolerance.patience),
        )


@runtime_checkable
class WrappingScorer(Protocol):
    """The spec of a scorer that asks another one, as a cache or a simulated annotator does."""

    base: ScorerSpec | None

    def wrap(self, scorer: Scorer) -> Scorer:
        """The scorer of this spec, given the opened `base`."""
        ...


@dataclass
class RayCluster:
    spec: Ray
    local: bool  # all nodes are this machine
    gpus: float  # of all nodes
    monitor: ActorHandle
    supervisor: Supervisor
    scheduler: GpuScheduler
    placement: Placement
    engines: tuple[Pool, EngineSpec] | None = None
    launched: list[tuple[WorkerGroup, ActorLauncher, GpuSlot]] = field(default_factory=list)

    def engine(self, spec: EngineSpec, model: Model, *, mixes: bool = False) -> Engine:
        pool = self._pool("engine", self.spec.engines, partial(_open_engine, spec, model, mixes), gpus=spec.gpus)
        self.engines = pool, spec
        return RayEngine(pool)

    def scorer(self, spec: ScorerSpec) -> Scorer:
        if not spec.loads_model:
            return spec.open(Place())
        if isinstance(spec, WrappingScorer) and spec.base is not None:  # only the base needs a process and a GPU
            return spec.wrap(self.scorer(spec.base))
        return RayScorer(self._pool("scorer", self.spec.scorers, spec.open), 4 * self.spec.prompts_per_task)

    def learner(self, spec: LearnerSpec, model: Model) -> Learner:
        slot = GpuSlot(self.scheduler)
        group = self._launch("learner", "learner", spec.ranks, partial(spec.open, model), slot)
        return RayLearner(group, slot, self.supervisor, direct=self._direct(spec))

    def _direct(self, learner: LearnerSpec) -> DirectSync | None:
        """None if the weights go through the object store."""
        if self.spec.transfer.by != "direct" or not self.spec.disaggregated or self.engines is None:
            return None
        pool, engine = self.engines
        if not (isinstance(engine, Receives) and isinstance(learner, Broadcasts) and learner.broadcasts):
            return None
        return DirectSync(
            pool,
            engine.gpus,
            local=self.local,
            device="cuda" if self.gpus else "cpu",
            seconds=self.spec.fault_tolerance.silence_seconds,
        )

    def ready(self) -> None:
        """Place all workers that are not up by one plan, start them, and wait for them.

        Raises ValueError if the cluster is too small, WorkerError, or what a worker raised as it opened.
        """
        waiting = [each for each in self.launched if not each[0].processes]
        self.placement.reserve([launcher.demand for group, launcher, _ in waiting if not group.ranks])
        slots = list(dict.fromkeys(slot for *_, slot in waiting))
        for together in [slots] if self.spec.disaggregated else [[slot] for slot in slots]:
            for slot in together:
                slot.acquire()
            open_all([group for group, _, slot in waiting if slot in together], self.supervisor)

    @property
    def deaths(self) -> list[str]:
        return list(map(str, self.supervisor.deaths))

    def close(self) -> None:
        import ray

        for group, *_ in self.launched:
            group.stop()
        self.placement.close()
        ray.shutdown()

    def _pool(self, role: str, replicas: int, opener: Opener, *, gpus: int = 1) -> Pool:
        slot = GpuSlot(self.scheduler)
        for number in range(replicas):
            name = role if replicas == 1 else f"{role} {number}"
            self._launch(role, name, 1, opener, slot, gpus=gpus, number=number)
        return Pool(slot, self.supervisor)

    def _launch(
        self, role: str, name: str, size: int, opener: Opener, slot: GpuSlot, *, gpus: int = 1, number: int = 0
    ) -> WorkerGroup:
        """A group of `size` processes; each needs `gpus` GPUs. They start in `ready`, or at the first call."""
        cpu, share = (1.0, gpus * self.spec.gpu_share) if self.spec.disaggregated else (SHARE, SHARE)
        each = {"CPU": cpu, **({"GPU": share} if self.gpus and share else {}), **self.spec.resources.get(role, {})}
        launcher = ActorLauncher(
            role=role,
            opener=opener,
            demand=Demand(name, number, size, each),
            placement=self.placement,
            shared=not self.spec.disaggregated,
            local=self.local,
            monitor=self.monitor,
            seconds=self.spec.fault_tolerance.patience,
            bucket=self.spec.transfer.bucket,
        )
        group = WorkerGroup(
            name,
            launcher,
            size,
            monitor=self.monitor,
            start_seconds=self.spec.fault_tolerance.patience,
            silence_seconds=self.spec.fault_tolerance.silence_seconds,
            bucket=self.spec.transfer.bucket,
        )
        slot.groups.append(group)
        self.launched.append((group, launcher, slot))
        return group


def _open_engine(spec: EngineSpec, model: Model, mixes: bool, place: Place) -> Engine:
    return spec.open(model, place, mixes=mixes)
