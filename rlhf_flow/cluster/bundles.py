"""Placement: on which nodes and GPUs the processes of a worker run.

Disaggregated, the ranks of a learner are packed on few nodes and replicas are spread. Colocated, engine i, scorer i and
learner rank i share bundle i.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, TypeAlias

from rlhf_flow.cluster.worker import Worker
from rlhf_flow.specs import Place

if TYPE_CHECKING:
    from ray.actor import ActorHandle
    from ray.util.placement_group import PlacementGroup

LOOPBACK = "127.0.0.1"
SHARE = 1 / 16  # of a bundle, in Ray's accounting only: a run has fewer than 16 roles. It limits no memory
Opener: TypeAlias = Callable[[Place], Any]
RayOptions: TypeAlias = dict[str, Any]


@dataclass
class SharedPlacement:
    """Bundles of one GPU each, or of one CPU if the cluster has no GPUs. A restarted process returns to its bundle."""

    gpus: float  # of the whole cluster
    seconds: float  # longest wait for a placement group
    groups: list[PlacementGroup] = field(default_factory=list)
    bundles: list[tuple[PlacementGroup, int]] = field(default_factory=list)

    def reserve(self, number: int) -> None:
        """Reserve bundles until there are `number`, packed on few nodes. Raises ValueError if the cluster has fewer."""
        from ray.util.placement_group import placement_group, remove_placement_group

        missing = number - len(self.bundles)
        if missing <= 0:
            return
        group = None
        if not self.gpus or number <= self.gpus:
            bundle = {"CPU": 1.0, **({"GPU": 1.0} if self.gpus else {})}
            group = placement_group([bundle] * missing, strategy="PACK")
        if group is None or not group.wait(self.seconds):
            if group is not None:
                remove_placement_group(group)
            raise ValueError(
                f"cluster.layout=colocated needs {number} {'GPUs' if self.gpus else 'CPUs'}, the largest of "
                "learner.ranks, cluster.engines and cluster.scorers, and the cluster does not have them free. "
                "Fix: lower these keys, or add nodes."
            )
        self.groups.append(group)
        self.bundles += [(group, index) for index in range(missing)]

    def options(self, first: int, size: int) -> list[RayOptions]:
        """Ray options that place processes first, ..., first + size - 1 of a role."""
        self.reserve(first + size)
        return [_in_bundle(group, index) for group, index in self.bundles[first : first + size]]

    def release(self) -> None:
        from ray.util.placement_group import remove_placement_group

        while self.groups:
            remove_placement_group(self.groups.pop())
        self.bundles.clear()


@dataclass
class ActorLauncher:
    """Starts the processes of one worker, at first and after each death."""

    role: str
    first: int  # number of the first process in the actor names: engine_0, learner_1
    opener: Opener  # runs in each process and returns the worker
    size: int
    gpus: float  # per process
    resources: Mapping[str, float]  # custom Ray resources per process
    local: bool  # all nodes are this machine
    monitor: ActorHandle
    seconds: float  # longest wait for a placement group
    bucket: int  # bytes of weights that a rank gathers at once
    shared: SharedPlacement | None = None  # None: the processes have GPUs of their own
    group: PlacementGroup | None = None

    def __call__(self, names: list[str]) -> list[ActorHandle]:
        """Start one process per name. Workers open asynchronously; `Worker.ready` waits for them."""
        import ray

        cpus = SHARE if self.shared else 1.0
        handles = [
            # One class per process: Ray shows its name in the process title, ray::engine_0.call
            ray.remote(type(f"{self.role}_{self.first + rank}", (Worker,), {}))
            .options(num_cpus=cpus, num_gpus=self.gpus, resources=dict(self.resources), max_restarts=0, **options)
            .remote(name, self.monitor)
            for rank, (name, options) in enumerate(zip(names, self._options(), strict=True))
        ]
        address, port = LOOPBACK, 0
        if self.size > 1:
            node_address, port = ray.get(handles[0].rendezvous.remote(), timeout=self.seconds)
            address = LOOPBACK if self.local else node_address
        for rank, handle in enumerate(handles):
            place = Place(
                rank=rank,
                size=self.size,
                address=address,
                port=port,
                device="cuda" if self.gpus else "cpu",
                bucket=self.bucket,
                shared=self.shared is not None,
            )
            handle.open.remote(self.opener, place)
        return handles

    def release(self) -> None:
        """Remove the placement group, which outlives its processes. Shared bundles stay reserved."""
        from ray.util.placement_group import remove_placement_group

        if self.group is not None:
            remove_placement_group(self.group)
            self.group = None

    def _options(self) -> list[RayOptions]:
        """Placement of each process. Ray gives a process all its GPUs on one node."""
        from ray.util.placement_group import placement_group

        if self.shared is not None:
            return self.shared.options(self.first, self.size)
        if self.size == 1:
            return [{"scheduling_strategy": "SPREAD"}]
        bundle = {"CPU": 1.0, **({"GPU": self.gpus} if self.gpus else {}), **self.resources}
        self.group = placement_group([bundle] * self.size, strategy="PACK")
        if not self.group.wait(self.seconds):
            raise ValueError(
                f"the {self.role} needs {self.size} times {bundle}, which the cluster does not have free. "
                "Fix: fewer learner.ranks, a smaller cluster.gpu_share, or more nodes."
            )
        return [_in_bundle(self.group, rank) for rank in range(self.size)]


def _in_bundle(group: PlacementGroup, index: int) -> RayOptions:
    from ray.util.scheduling_strategies import PlacementGroupSchedulingStrategy

    return {"scheduling_strategy": PlacementGroupSchedulingStrategy(group, placement_group_bundle_index=index)}
