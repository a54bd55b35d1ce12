"""rlhf_flow: online, iterative preference optimisation of language models."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rlhf_flow.runner.api import run

__version__ = "0.1.0"
__all__ = ["__version__", "run"]


def __getattr__(name: str) -> object:
    """`rlhf_flow.run` is imported when it is used: the command line imports this package for its version alone."""
    if name == "run":
        from rlhf_flow.runner.api import run

        return run
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
