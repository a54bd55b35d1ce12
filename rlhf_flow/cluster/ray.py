"""Parts on a Ray cluster: one actor per engine, per scorer with a model, and per learner rank.

Disaggregated, each has GPUs of its own. Colocated, all roles share the same GPUs in turns: `gpu_sharing`, `bundles`.

Proxies have the signatures of what they stand for and block; nothing above this folder knows about Ray. Weights travel
by a transport (`rlhf_flow.cluster.weight_sync.transport`): the learner leaves them there once, and each engine takes
them.
"""

from __future__ import annotations

import os
from dataclasses import dataclass, field, replace
from functools import partial
from typing import TYPE_CHECKING

from rlhf_flow.cluster.bundles import SHARE, SharedPlacement
from rlhf_flow.cluster.clients import RayEngine, RayLearner, RayScorer
from rlhf_flow.cluster.fault_tolerance import FaultTolerance
from rlhf_flow.cluster.gpu_sharing import GpuScheduler, GpuSlot
from rlhf_flow.cluster.heartbeat import HeartbeatMonitor
from rlhf_flow.cluster.hiring import ActorLauncher, Opener
from rlhf_flow.cluster.joining import alive, join
from rlhf_flow.cluster.starting import start
from rlhf_flow.cluster.supervisor import DeadWorkerError, Supervisor
from rlhf_flow.cluster.weight_sync.direct import DirectWeightSync
from rlhf_flow.cluster.weight_sync.transport import Transfer, Transport
from rlhf_flow.cluster.worker_group import WorkerGroup
from rlhf_flow.cluster.worker_pool import Pool
from rlhf_flow.protocols import Engine, Learner, Scorer
from rlhf_flow.specs import Cluster, EngineSpec, LearnerSpec, Model, Place, ScorerSpec
from rlhf_flow.system.optional_deps import require

if TYPE_CHECKING:
    from ray.actor import ActorHandle

ROLES = ("engine", "scorer", "learner")
LAYOUTS = ("disaggregated", "colocated")


@dataclass(frozen=True)
class Ray:
    """A Ray cluster: the one at `address` (or in RAY_ADDRESS), else one started on this machine for the run."""

    address: str | None = None  # of a cluster to join; auto: the one that is up; null: start one here
    nodes: int = 1  # of a cluster that is joined, its head among them: a run waits until so many are there
    layout: str = "disaggregated"  # GPUs of its own for each role; colocated: the same ones for all, in turns
    object_store_mib: int = 512  # of a cluster started here
    engines: int = 1  # replicas of the engine; the round's answers do not depend on their number
    scorers: int = 1  # replicas of each scorer that loads a model
    gpu_share: float = 1.0  # of a GPU, for each worker where there are GPUs; 0.25 lets four workers share one
    resources: dict[str, dict[str, float]] = field(default_factory=dict)  # engine, scorer, learner -> of your own, each
    prompts_per_task: int = (
        16  # prompts that an engine is handed at once, at least; scorers get exactly four times as many
    )
    transfer: Transfer = field(default_factory=Transfer)  # of weights
    fault_tolerance: FaultTolerance = field(default_factory=FaultTolerance)  # with nodes and workers

    def __post_init__(self) -> None:
        for key, rule, ok in (
            ("nodes", ">= 1", self.nodes >= 1),
            ("object_store_mib", ">= 80", self.object_store_mib >= 80),
            ("engines", ">= 1", self.engines >= 1),
            ("scorers", ">= 1", self.scorers >= 1),
            ("gpu_share", "> 0", self.gpu_share > 0),
            ("layout", f"one of {', '.join(LAYOUTS)}", self.layout in LAYOUTS),
            ("resources", f"of {', '.join(ROLES)}", set(self.resources) <= set(ROLES)),
            ("prompts_per_task", ">= 1, a number of prompts", self.prompts_per_task >= 1),
        ):
            if not ok:
                raise ValueError(f"cluster.{key} must be {rule}, got {vars(self)[key]}")
        self.transfer.check_places(layout=self.layout, alone=self.disaggregated and self.gpu_share >= 1)
        for key, given in (("gpu_share", self.gpu_share != 1.0), ("resources", bool(self.resources))):
            if self.layout == "colocated" and given:
                raise ValueError(
                    f"cluster.{key} must be left alone with cluster.layout=colocated, whose roles are all at the same "
                    f"places, got {vars(self)[key]}. Take it out, or try cluster.layout=disaggregated."
                )

    @property
    def in_process(self) -> bool:
        return False

    @property
    def disaggregated(self) -> bool:
        return self.layout == "disaggregated"

    def check(self, *, ranks: int) -> None:
        """Raise ValueError where Ray is missing, weights cannot travel as asked, or there cannot be so many nodes."""
        require("ray", part="cluster=ray", instead="cluster=local")
        self._joined()

    def _joined(self) -> str | None:
        """The address of a cluster that is there already. Raises ValueError where a cluster of our own would not do."""
        address = self.address or os.environ.get("RAY_ADDRESS") or None
        self.transfer.check(local=address is None)
        if address is None and self.nodes > 1:
            raise ValueError(
                f"cluster.nodes must be 1 without a cluster to join, got {self.nodes}: one that is started here has no "
                "more. Start Ray on all of them (scripts/launch, KubeRay, or ray start by hand), and give the address "
                "of its head as cluster.address or RAY_ADDRESS."
            )
        return address

    def open(self) -> Cluster:
        address = self._joined()
        if address is None:
            start(object_store_mib=self.object_store_mib)
        else:
            join(address, nodes=self.nodes, seconds=self.fault_tolerance.start_seconds)
        import ray
        from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

        here = NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=False)
        pulse = ray.remote(HeartbeatMonitor).options(num_cpus=0, scheduling_strategy=here).remote()
        gpus = sum(node["Resources"].get("GPU", 0.0) for node in alive())
        supervisor = Supervisor(self.fault_tolerance.deaths)
        express = DirectWeightSync(
            supervisor,
            seconds=self.fault_tolerance.silence_seconds,
            on_gpus=gpus > 0,
            local=address is None,
            paired=not self.disaggregated,
        )
        return RayCluster(
            self,
            local=address is None,
            gpus=gpus,
            pulse=pulse,
            supervisor=supervisor,
            turns=GpuScheduler(not self.disaggregated, supervisor),
            bundles=None if self.disaggregated else SharedPlacement(gpus, self.fault_tolerance.start_seconds),
            transport=self.transfer.open(),
            express=express if self.transfer.express else None,
        )


@dataclass
class RayCluster:
    spec: Ray
    local: bool
    gpus: float  # 0 on a cluster of CPUs
    pulse: ActorHandle
    supervisor: Supervisor
    turns: GpuScheduler
    bundles: SharedPlacement | None  # that all roles share
    transport: Transport
    express: DirectWeightSync | None  # how engines get new weights, where not as everybody does
    hired: list[tuple[WorkerGroup, ActorLauncher, GpuSlot]] = field(default_factory=list)

    def engine(self, spec: EngineSpec, model: Model, *, mixes: bool = False) -> Engine:
        opener = partial(_opened, spec, model, mixes)
        pool = self._pool("engine", self.spec.engines, opener, gpus=spec.gpus)
        return RayEngine(pool, self.spec.prompts_per_task, self.express)

    def scorer(self, spec: ScorerSpec) -> Scorer:
        if not spec.loads_model:
            return spec.open(Place())
        if (inner := _inner(spec)) is not None:  # what asks it stays with the driver, with its files and its lines
            here: ScorerSpec = replace(spec, of=OpenedScorer(inner, self.scorer(inner)))  # type: ignore[type-var]
            return here.open(Place())
        return RayScorer(self._pool("scorer", self.spec.scorers, spec.open), 4 * self.spec.prompts_per_task)

    def learner(self, spec: LearnerSpec, model: Model) -> Learner:
        turn = GpuSlot(self.turns)
        crew = self._crew("learner", "learner", spec.ranks, partial(spec.open, model), turn)
        learner = RayLearner(crew, turn, self.supervisor)
        if self.express is not None:
            self.express.learners.append(learner)
        return learner

    def ready(self) -> None:
        """Wait until every worker is up. Raises WorkerError, or what a worker raised while it started."""
        if self.bundles is not None:  # one group for all holds together better than one that grows
            self.bundles.reserve(max((hiring.first + hiring.size for _, hiring, _ in self.hired), default=0))
        for crew, _, turn in self.hired:
            while not crew.where:
                try:
                    turn.take()
                    for one in turn.crews:
                        if not one.ranks:
                            one.start()
                    crew.ready()
                except DeadWorkerError as death:
                    self.supervisor.survive(death)
                    crew.dismiss()

    @property
    def deaths(self) -> list[str]:
        return list(map(str, self.supervisor.deaths))

    def close(self) -> None:
        import ray

        for crew, *_ in self.hired:
            crew.dismiss()
        if self.bundles is not None:
            self.bundles.release()
        ray.shutdown()
        self.transport.close()

    def _pool(self, role: str, replicas: int, opener: Opener, *, gpus: int = 1) -> Pool:
        turn = GpuSlot(self.turns)
        for number in range(replicas):
            name = role if replicas == 1 else f"{role} {number}"
            self._crew(role, name, 1, opener, turn, gpus=gpus, number=number)
        return Pool(turn, self.supervisor)

    def _crew(
        self, role: str, name: str, size: int, opener: Opener, turn: GpuSlot, *, gpus: int = 1, number: int = 0
    ) -> WorkerGroup:
        """`size` processes, each of which opens the worker. `gpus` is what one of them could use alone."""
        share = self._share(name, size, gpus)
        hiring = ActorLauncher(
            title=role,
            first=number,
            opener=opener,
            size=size,
            gpus=share,
            resources=self.spec.resources.get(role, {}),
            local=self.local,
            pulse=self.pulse,
            seconds=self.spec.fault_tolerance.start_seconds,
            bucket=self.spec.transfer.bucket,
            bundles=self.bundles,
        )
        crew = WorkerGroup(
            name,
            hiring,
            size,
            pulse=self.pulse,
            start_seconds=self.spec.fault_tolerance.start_seconds,
            silence_seconds=self.spec.fault_tolerance.silence_seconds,
            transport=self.transport,
            bucket=self.spec.transfer.bucket,
        )
        if self.bundles is None:  # others have to step aside before it can open what it holds
            crew.start()
        turn.crews.append(crew)
        self.hired.append((crew, hiring, turn))
        return crew

    def _share(self, name: str, size: int, gpus: int) -> float:
        """Of a GPU, for each process; or several whole ones. Raises ValueError where there is not so much."""
        if self.gpus == 0:
            return 0.0
        if self.bundles is not None:
            return SHARE
        share = gpus * self.spec.gpu_share
        taken = sum(hiring.gpus * hiring.size for crew, hiring, _ in self.hired if crew.ranks)
        if size * share > self.gpus - taken:
            raise ValueError(
                f"the {name} needs {size} x {share:g} GPUs, but the cluster has only {self.gpus - taken:g} left. "
                "Try a smaller cluster.gpu_share, fewer learner.ranks or cluster.engines, or more GPUs."
            )
        return share


@dataclass(frozen=True)
class OpenedScorer:
    """The specification of a scorer that is open already, for the one that holds it."""

    spec: ScorerSpec
    scorer: Scorer
    loads_model: bool = False

    def open(self, place: Place) -> Scorer:
        return self.scorer

    def __getattr__(self, name: str) -> object:
        """Whatever else it is asked, it is the specification."""
        return getattr(self.spec, name)


def _inner(spec: ScorerSpec) -> ScorerSpec | None:
    """The scorer inside of another, as that of a simulated annotator; None where it holds none."""
    held: dict[str, ScorerSpec | None] = vars(spec)
    return held.get("base")


def _opened(spec: EngineSpec, model: Model, mixes: bool, place: Place) -> Engine:
    return spec.open(model, place, mixes=mixes)
