"""Placement of roles that share GPUs, and the launcher of a worker's processes.

Colocated, engine i, scorer i and learner rank i share bundle i.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, TypeAlias

from rlhf_flow.cluster.placement import Demand, Placement, RayOptions
from rlhf_flow.cluster.worker import FEED, Worker
from rlhf_flow.specs import Place

if TYPE_CHECKING:
    from ray.actor import ActorHandle
    from ray.util.placement_group import PlacementGroup

LOOPBACK = "127.0.0.1"
SHARE = 1 / 16  # of a bundle, in Ray's accounting only: a run has fewer than 16 roles. It limits no memory
Opener: TypeAlias = Callable[[Place], Any]


@dataclass
class SharedPlacement:
    """Bundles of one GPU each, or of one CPU if the cluster has no GPUs. A restarted process returns to its bundle."""

    gpus: float  # of the whole cluster
    seconds: float  # longest wait for a placement group
    groups: list[PlacementGroup] = field(default_factory=list)
    bundles: list[tuple[PlacementGroup, int]] = field(default_factory=list)

    def reserve(self, demands: Sequence[Demand]) -> None:
        """Reserve a bundle for each process, packed on few nodes: one group is packed better than one that grows."""
        from ray.util.placement_group import placement_group, remove_placement_group

        number = max((demand.first + demand.size for demand in demands), default=0)
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

    def options(self, demand: Demand) -> list[RayOptions]:
        from ray.util.scheduling_strategies import PlacementGroupSchedulingStrategy

        self.reserve([demand])
        bundles = self.bundles[demand.first : demand.first + demand.size]
        return [
            {"scheduling_strategy": PlacementGroupSchedulingStrategy(group, placement_group_bundle_index=index)}
            for group, index in bundles
        ]

    def release(self, demand: Demand) -> None:
        """Bundles stay reserved, because other roles use them."""

    def close(self) -> None:
        from ray.util.placement_group import remove_placement_group

        while self.groups:
            remove_placement_group(self.groups.pop())
        self.bundles.clear()


@dataclass
class ActorLauncher:
    """Starts the processes of one worker, at first and after each death."""

    role: str
    opener: Opener  # runs in each process and returns the worker
    demand: Demand
    placement: Placement
    shared: bool  # whether other roles use the same GPUs in turns
    local: bool  # all nodes are this machine
    monitor: ActorHandle
    seconds: float  # longest wait for the first process
    bucket: int  # bytes of weights that a rank gathers at once

    def __call__(self, names: list[str]) -> list[ActorHandle]:
        """Start one process per name. Workers open asynchronously; `Worker.ready` waits for them."""
        import ray

        own = dict(self.demand.each)
        cpus, gpus = own.pop("CPU"), own.pop("GPU", 0.0)
        handles = [
            # One class per process: Ray shows its name in the process title, ray::engine_0.call
            ray.remote(concurrency_groups={FEED: 1})(type(f"{self.role}_{self.demand.first + rank}", (Worker,), {}))
            .options(num_cpus=cpus, num_gpus=gpus, resources=own, max_restarts=0, **options)
            .remote(name, self.monitor)
            for rank, (name, options) in enumerate(zip(names, self.placement.options(self.demand), strict=True))
        ]
        size, address, port = self.demand.size, LOOPBACK, 0
        if size > 1:
            node_address, port = ray.get(handles[0].rendezvous.remote(), timeout=self.seconds)
            address = LOOPBACK if self.local else node_address
        for rank, handle in enumerate(handles):
            place = Place(
                rank=rank,
                size=size,
                address=address,
                port=port,
                device="cuda" if gpus else "cpu",
                bucket=self.bucket,
                shared=self.shared,
            )
            handle.open.remote(self.opener, place)
        return handles

    def release(self) -> None:
        """Give back the place of processes that have ended."""
        self.placement.release(self.demand)
