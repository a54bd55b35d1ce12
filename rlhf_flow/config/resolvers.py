"""What `${sandbox:...}`, `${ratio:...}`, `${product:...}` and `${length:...}` stand for in configurations."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from importlib import import_module
from operator import mul

WORLD = "rlhf_flow.sandbox.world"


def ratio(one: float | None, other: float | None) -> float:
    """`${ratio:${objective.tau},${objective.eta}}`: one value over another. Raises ValueError for null."""
    if one is None or not other:
        raise ValueError(
            f"${{ratio:...}} divides two numbers, got {one} and {other}. Fix: set both, or the value that it computes."
        )
    return one / other


def sandbox(name: str) -> str:
    """`${sandbox:policy}`: a path in the sandbox world. Raises ValueError if the world was not built yet.

    The sandbox is a layer above this package, so it is imported by name. This is not in its world.py, because the bytes
    of that file are part of the name of every world that was built.
    """
    world = vars(import_module(WORLD))["locate"]()
    paths = {part: vars(world)[part] for part in ("policy", "reward_model", "prompts", "held_out")}
    if name not in paths:
        raise ValueError(f"the sandbox world has no {name!r}. Fix: one of {', '.join(paths)}.")
    if not world.exists:
        raise ValueError(f"the sandbox world must be built first, and {world.root} is empty. Fix: rlhf-flow sandbox.")
    return str(paths[name])


RESOLVERS: Mapping[str, Callable[..., float | str]] = {
    "sandbox": sandbox,
    "ratio": ratio,
    "product": mul,  # `${product:0.005,${objective.base.beta}}`: one value times another
    "length": len,  # `${length:${objective.weights}}`: the number of items of a list
}
