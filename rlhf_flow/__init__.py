"""rlhf_flow: online, iterative preference optimisation of language models."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rlhf_flow.runner.api import Run, resume, run
    from rlhf_flow.verify.objective_check import verify

__version__ = "0.2.0"
__all__ = ["Run", "__version__", "resume", "run", "verify"]


def __getattr__(name: str) -> object:
    """Import the Python interface on first use, so that importing the package for its version stays fast."""
    if name == "verify":
        return import_module("rlhf_flow.verify")  # a package that can be called
    if name in __all__:
        return vars(import_module("rlhf_flow.runner.api"))[name]
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
