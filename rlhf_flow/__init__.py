"""rlhf_flow: online, iterative preference optimisation of language models."""

from __future__ import annotations

import os
from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rlhf_flow.runner.api import Run, resume, run
    from rlhf_flow.verify.objective_check import verify

__version__ = "0.2.0"
__all__ = ["Run", "__version__", "resume", "run", "verify"]

# torch's OpenMP threads, here and in workers, spin briefly after a parallel loop, then sleep. By default they spin so
# long that they wait for each other on a busy machine. OpenMP reads it when torch is imported.
os.environ.setdefault("GOMP_SPINCOUNT", "20000")


def __getattr__(name: str) -> object:
    """Import the Python interface on first use, so that importing the package for its version stays fast."""
    if name == "verify":
        return import_module("rlhf_flow.verify")  # a package that can be called
    if name in __all__:
        return vars(import_module("rlhf_flow.runner.api"))[name]
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
