"""rlhf_flow: online, iterative preference optimisation of language models."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rlhf_flow.runner.api import run

__version__ = "0.2.0"
__all__ = ["__version__", "run"]


def __getattr__(name: str) -> object:
    """Import `rlhf_flow.run` on first use, so that importing the package for its version stays fast."""
    if name == "run":
        from rlhf_flow.runner.api import run

        return run
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
