"""A run from Python: `rlhf_flow.run` composes the configuration and runs it as the command line does."""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from rlhf_flow.config import compose as config
from rlhf_flow.config.overrides import expanded, from_mapping
from rlhf_flow.runner import prepare as build
from rlhf_flow.types import RoundRecord


def run(
    keys: Sequence[str] | Mapping[str, object] = (), *, reward: Callable[..., Any] | None = None
) -> list[RoundRecord]:
    """Run all rounds that have no record yet; return the records of all rounds, the start's first.

    `keys`: what the command line takes, ["model.path=my/model", "stack=local"] or {"model.path": "my/model"}; a YAML
    file may be among the texts. `reward`: a function (prompt, answer, meta) -> float, which is then the scorer. One
    that is written into a notebook or a script works with stack=local alone, for other processes cannot import it.
    Raises ValueError, or an error of Hydra or OmegaConf, for a mistake in the keys; AlarmError if an alarm stopped the
    run; and what ends a run otherwise. The same call goes on with it.
    """
    overrides = from_mapping(keys) if isinstance(keys, Mapping) else expanded(keys)
    if reward is not None:
        overrides += ["scorer=rule", f"scorer.function={_name(reward)}"]
    asked = config.compose(*overrides)
    if reward is not None and reward.__module__ == "__main__" and not asked.cluster.in_process:
        raise ValueError(
            f"reward={reward.__name__} is written into the notebook or script that runs, and the processes of this "
            "cluster cannot import it. Fix: stack=local, or put it into a module."
        )
    return build.prepare(asked).run()


def _name(function: Callable[..., Any]) -> str:
    """module.function, by which the scorer finds it. Raises ValueError for a function that has no such name."""
    name = function.__qualname__
    if vars(sys.modules[function.__module__]).get(name) is not function:
        raise ValueError(
            f"reward={name} cannot be found by its name. Fix: define it with `def` at the top of a module, a script or "
            "a notebook cell."
        )
    return f"{function.__module__}.{name}"
