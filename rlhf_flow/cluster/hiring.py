"""Where the processes of a worker are put: the ranks of a learner close together, replicas far from each other."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, TypeAlias

from rlhf_flow.cluster.bundles import SHARE, SharedPlacement
from rlhf_flow.cluster.worker import Worker
from rlhf_flow.specs import Place

if TYPE_CHECKING:
    from ray.actor import ActorHandle
    from ray.util.placement_group import PlacementGroup

LOOPBACK = "127.0.0.1"
Opener: TypeAlias = Callable[[Place], Any]


@dataclass
class ActorLauncher:
    """How the processes of one worker are started, at first and whenever one of them died."""

    title: str  # of its processes: engine_0, learner_1
    first: int  # the number of the first process in their titles
    opener: Opener  # what each of them opens
    size: int
    gpus: float  # for each
    resources: Mapping[str, float]  # of the cluster's own, for each
    local: bool  # whether all nodes are this machine
    pulse: ActorHandle
    seconds: float  # longest wait for a place
    bucket: int  # bytes of weights that a rank gathers at once
    bundles: SharedPlacement | None = None  # that it shares with other roles; None: it has places of its own
    group: PlacementGroup | None = field(default=None)

    def __call__(self, names: list[str]) -> list[ActorHandle]:
        """Start one process for each name; they open their part while others work."""
        import ray

        cpus = 1.0 if self.bundles is None else SHARE
        handles = [
            # a class of its own for each, for its name is what the process is called: ray::engine_0.call
            ray.remote(type(f"{self.title}_{self.first + rank}", (Worker,), {}))
            .options(num_cpus=cpus, num_gpus=self.gpus, resources=dict(self.resources), max_restarts=0, **where)
            .remote(name, self.pulse)
            for rank, (name, where) in enumerate(zip(names, self._places(), strict=True))
        ]
        address, port = LOOPBACK, 0
        if self.size > 1:
            found, port = ray.get(handles[0].meeting_point.remote(), timeout=self.seconds)
            address = LOOPBACK if self.local else found
        device = "cuda" if self.gpus else "cpu"
        for rank, handle in enumerate(handles):
            place = Place(
                rank=rank,
                size=self.size,
                address=address,
                port=port,
                device=device,
                bucket=self.bucket,
                shared=self.bundles is not None,
            )
            handle.open.remote(self.opener, place)
        return handles

    def release(self) -> None:
        """Give the reserved places back: a group outlives the processes that it was made for.

        Those of `bundles` are not its own.
        """
        from ray.util.placement_group import remove_placement_group

        if self.group is not None:
            remove_placement_group(self.group)
            self.group = None

    def _places(self) -> list[dict[str, object]]:
        """In the bundles of all roles, or: ranks in one group, on as few nodes as can be; one alone on the emptiest.

        A process has all its GPUs on one node, and so does an engine of several.
        """
        from ray.util.placement_group import placement_group
        from ray.util.scheduling_strategies import PlacementGroupSchedulingStrategy

        if self.bundles is not None:
            return self.bundles.places(self.first, self.size)
        if self.size == 1:
            return [{"scheduling_strategy": "SPREAD"}]
        bundle = {"CPU": 1.0, **({"GPU": self.gpus} if self.gpus else {}), **self.resources}
        self.group = placement_group([bundle] * self.size, strategy="PACK")
        if not self.group.wait(self.seconds):
            raise ValueError(
                f"the {self.title} needs {self.size} times {bundle}, and the cluster has no place for them. "
                "Try fewer learner.ranks, a smaller cluster.gpu_share, or more nodes."
            )
        return [
            {"scheduling_strategy": PlacementGroupSchedulingStrategy(self.group, placement_group_bundle_index=rank)}
            for rank in range(self.size)
        ]
