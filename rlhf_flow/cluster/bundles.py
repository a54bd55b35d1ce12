"""The places that all roles share: bundle i is a GPU with engine i, learner rank i and scorer i on it."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from ray.util.placement_group import PlacementGroup

SHARE = 1 / 16  # of a bundle, for Ray's books: more processes than a run has roles. What they take is not what they use


@dataclass
class SharedPlacement:
    """Of one GPU each, or of a CPU where there is no GPU. Who is started again comes back to its bundle."""

    gpus: float  # of the whole cluster; 0: it has CPUs alone
    seconds: float  # longest wait for a place
    groups: list[PlacementGroup] = field(default_factory=list)
    reserved: list[tuple[PlacementGroup, int]] = field(default_factory=list)

    def reserve(self, number: int) -> None:
        """At least so many, on as few nodes as can be. Raises ValueError where the cluster has less."""
        from ray.util.placement_group import placement_group, remove_placement_group

        missing = number - len(self.reserved)
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
                f"cluster.layout=colocated needs {number} {'GPUs' if self.gpus else 'CPUs'}, one for each of "
                "learner.ranks, cluster.engines and cluster.scorers, whichever is most, and the cluster has no place "
                "for them. Try fewer of these, or more nodes."
            )
        self.groups.append(group)
        self.reserved += [(group, index) for index in range(missing)]

    def places(self, first: int, size: int) -> list[dict[str, object]]:
        """The options of Ray that put processes first, first + 1, ... of a role where they belong."""
        from ray.util.scheduling_strategies import PlacementGroupSchedulingStrategy

        self.reserve(first + size)
        return [
            {"scheduling_strategy": PlacementGroupSchedulingStrategy(group, placement_group_bundle_index=index)}
            for group, index in self.reserved[first : first + size]
        ]

    def release(self) -> None:
        from ray.util.placement_group import remove_placement_group

        while self.groups:
            remove_placement_group(self.groups.pop())
        self.reserved.clear()
