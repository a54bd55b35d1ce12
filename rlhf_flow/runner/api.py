"""`rlhf_flow.run`: a run from Python, as the command line runs it."""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from rlhf_flow.config.compose import compose
from rlhf_flow.config.overrides import expanded, from_mapping
from rlhf_flow.runner import prepare
from rlhf_flow.types import RoundRecord


def run(
    keys: Sequence[str] | Mapping[str, object] = (), *, reward: Callable[..., Any] | None = None
) -> list[RoundRecord]:
    """Run all rounds that have no record yet; return the records of all rounds, including round 0.

    `keys`: arguments of the command line, ["model.path=my/model", "stack=local", "my.yaml"], or a mapping,
    {"model.path": "my/model"}. `reward`: a function (prompt, answer, meta) -> float that becomes the scorer. If it is
    defined in a notebook or script, it needs stack=local, since other processes cannot import it.

    Raises ValueError, or an error of Hydra or OmegaConf, for a mistake in the keys, and AlarmError if an alarm stopped
    the run. The same call resumes a run.
    """
    overrides = from_mapping(keys) if isinstance(keys, Mapping) else expanded(keys)
    if reward is not None:
        overrides += ["scorer=rule", f"scorer.function={_name(reward)}"]
    config = compose(*overrides)
    if reward is not None and reward.__module__ == "__main__" and not config.cluster.in_process:
        raise ValueError(
            f"reward={reward.__name__}: it is defined in the notebook or script that runs, and the processes of this "
            "cluster cannot import it. Fix: stack=local, or put it into a module."
        )
    return prepare.prepare(config).run()


def _name(function: Callable[..., Any]) -> str:
    """module.function, as the scorer imports it. Raises ValueError if the function cannot be imported."""
    name = function.__qualname__
    if vars(sys.modules[function.__module__]).get(name) is not function:
        raise ValueError(
            f"reward={name}: it cannot be imported by this name. Fix: define it with `def` at the top level of a "
            "module, script or notebook cell."
        )
    return f"{function.__module__}.{name}"
