"""Placement: on which nodes the processes of a worker run that have CPUs and GPUs of their own.

One plan serves all roles. The ranks of a learner come first, packed on as few nodes as possible, because they exchange
gradients. Every other process, such as an engine with all its GPUs, is on one node; the replicas of a role are spread.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol, TypeAlias

Resources: TypeAlias = Mapping[str, float]  # CPU, GPU and the user's own
Nodes: TypeAlias = tuple[str, ...]  # Ray's id of the node of each process
RayOptions: TypeAlias = dict[str, Any]

ROUNDING = 1e-6  # of sums of shares of a GPU
SETTLE_SECONDS, POLL_SECONDS = 10.0, 0.2  # Ray reports the resources of processes that end a moment later


@dataclass(frozen=True, eq=False)
class Demand:
    """The processes of one worker."""

    name: str  # engine 3
    first: int  # number of the first process among those of its role
    size: int  # number of processes
    each: Resources  # of one process


class Placement(Protocol):
    def reserve(self, demands: Sequence[Demand]) -> None:
        """Choose the places of several workers at once. Raises ValueError if the cluster is too small for them."""
        ...

    def options(self, demand: Demand) -> list[RayOptions]:
        """Ray options that place each process of a worker, at its first start and after a death."""
        ...

    def release(self, demand: Demand) -> None:
        """The processes of the worker have ended."""
        ...

    def close(self) -> None: ...


def placed(free: Mapping[str, Resources], demands: Sequence[Demand]) -> list[Nodes]:
    """The nodes of each worker's processes, given what is free on each node. Raises ValueError if there is no room."""
    left = {node: dict(resources) for node, resources in free.items()}
    order = sorted(demands, key=lambda demand: (demand.size == 1, -_gpus(demand)))
    nodes = {demand: _packed(left, demand) if demand.size > 1 else _spread(left, demand) for demand in order}
    return [nodes[demand] for demand in demands]


def _gpus(demand: Demand) -> float:
    return demand.each.get("GPU", 0.0)


def _packed(left: dict[str, dict[str, float]], demand: Demand) -> Nodes:
    """The smallest node that has room for all processes, or the largest one and so on for the rest."""
    rooms = {node: int(_room(resources, demand) + ROUNDING) for node, resources in left.items()}
    nodes: list[str] = []
    while (missing := demand.size - len(nodes)) > 0:
        enough = {node: room for node, room in rooms.items() if room >= missing}
        node = min(enough, key=enough.__getitem__) if enough else max(rooms, key=rooms.__getitem__, default=None)
        number = min(missing, rooms.pop(node, 0)) if node is not None else 0
        if node is None or not number:
            raise _no_room(demand, len(nodes))
        _take(left[node], demand, number)
        nodes += [node] * number
    return tuple(nodes)


def _spread(left: dict[str, dict[str, float]], demand: Demand) -> Nodes:
    """The node with most room."""
    rooms = {node: _room(resources, demand) for node, resources in left.items()}
    node = max(rooms, key=rooms.__getitem__, default=None)
    if node is None or rooms[node] < 1 - ROUNDING:
        raise _no_room(demand, 0)
    _take(left[node], demand, 1)
    return (node,)


def _room(resources: Resources, demand: Demand) -> float:
    """For how many processes of the worker the resources suffice."""
    return min(resources.get(name, 0.0) / amount for name, amount in demand.each.items())


def _take(resources: dict[str, float], demand: Demand, number: int) -> None:
    for name, amount in demand.each.items():
        resources[name] = resources.get(name, 0.0) - number * amount


def _no_room(demand: Demand, found: int) -> ValueError:
    each = ", ".join(f"{amount:g} {name}" for name, amount in demand.each.items())
    return ValueError(
        f"the {demand.name} needs {demand.size} x ({each}), each on one node, and beside the other workers the cluster "
        f"has room for {found}. Fix: fewer learner.ranks, cluster.engines or cluster.scorers, a smaller "
        "engine.tensor_parallel or cluster.gpu_share, or more nodes."
    )


def in_cluster() -> dict[str, Resources]:
    """The resources of every living node of the connected cluster."""
    import ray

    return {node["NodeID"]: node["Resources"] for node in ray.nodes() if node["Alive"]}


def available() -> dict[str, Resources]:
    """What no process of any job holds."""
    from ray._private.state import available_resources_per_node  # Ray 2.60 has no public way to this

    free: dict[str, Resources] = available_resources_per_node()
    return free


@dataclass
class DedicatedPlacement:
    """Each process has resources of its own. A worker that is started again returns to its nodes if they have room."""

    nodes: Callable[[], Mapping[str, Resources]] = in_cluster
    available: Callable[[], Mapping[str, Resources]] = available
    held: dict[Demand, Nodes] = field(default_factory=dict)
    earlier: dict[Demand, Nodes] = field(default_factory=dict)  # of workers that have stopped

    def reserve(self, demands: Sequence[Demand]) -> None:
        new = [demand for demand in demands if demand not in self.held]
        self.held |= zip(new, self._chosen(new), strict=True)

    def options(self, demand: Demand) -> list[RayOptions]:
        nodes = self.hold(demand)
        return [_on(node) for node in nodes] if nodes else [{"scheduling_strategy": "SPREAD"}] * demand.size

    def hold(self, demand: Demand) -> Nodes:
        """The nodes on which a worker starts; empty if a node was lost and no other one has room: Ray waits for one.

        Raises ValueError if the cluster has no room for a worker that starts for the first time.
        """
        if demand not in self.held and not self._returns(demand):
            try:
                self.reserve([demand])
            except ValueError:
                if demand not in self.earlier:
                    raise
        return self.held.get(demand, ())

    def release(self, demand: Demand) -> None:
        if demand in self.held:
            self.earlier[demand] = self.held.pop(demand)

    def close(self) -> None:
        self.held.clear()

    def _chosen(self, demands: Sequence[Demand]) -> list[Nodes]:
        """As in a cluster without other jobs, unless these hold some of the resources for long."""
        until = time.monotonic() + SETTLE_SECONDS
        while True:
            unreserved = self._unreserved()
            wanted = placed(unreserved, demands)
            try:
                possible = placed(_less(unreserved, self.available()), demands)
            except ValueError:
                possible = None
            if possible == wanted or time.monotonic() > until:
                return possible or wanted  # Ray starts the processes once the other jobs have ended
            time.sleep(POLL_SECONDS)

    def _returns(self, demand: Demand) -> bool:
        """Hold the earlier nodes of a worker again, if they have room."""
        nodes, unreserved = self.earlier.get(demand, ()), self._unreserved()
        if not nodes or any(_room(unreserved.get(node, {}), demand) < nodes.count(node) - ROUNDING for node in nodes):
            return False
        self.held[demand] = nodes
        return True

    def _unreserved(self) -> dict[str, Resources]:
        """What no worker of this run holds, even if Ray has not started it yet."""
        left = {node: dict(resources) for node, resources in self.nodes().items()}
        for demand, nodes in self.held.items():
            for node in nodes:
                if node in left:
                    _take(left[node], demand, 1)
        return dict(left)


def _less(one: Mapping[str, Resources], other: Mapping[str, Resources]) -> dict[str, Resources]:
    """The smaller amounts of both."""
    return {
        node: {name: min(amount, other.get(node, {}).get(name, 0.0)) for name, amount in resources.items()}
        for node, resources in one.items()
    }


def _on(node: str) -> RayOptions:
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    return {"scheduling_strategy": NodeAffinitySchedulingStrategy(node, soft=True)}  # elsewhere if the node is lost
