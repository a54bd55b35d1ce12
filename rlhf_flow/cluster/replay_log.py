"""What a learner was told since its weights were last at a place that outlives it, so that it can be told again."""

from __future__ import annotations

import shutil
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from rlhf_flow.types import Policy


@dataclass
class CallLog:
    """The calls that changed what the learner holds. Told again to a fresh learner, they make it what it was.

    A learner that is told the same steps of the same lesson ends in the same weights, so nothing of it has to be saved.
    """

    calls: list[tuple[str, tuple[Any, ...]]] = field(default_factory=list)
    held: str = ""  # sha256 of the weights that are published and held; empty once it learns on

    @property
    def published(self) -> str:
        """sha256 of what the learner published itself and holds; empty where there is no such thing."""
        return self.held if any(method == "publish" for method, _ in self.calls) else ""

    def note(self, method: str, arguments: tuple[Any, ...], result: object) -> None:
        """Remember a call that succeeded, as far as it matters."""
        if method == "start":
            (policy,) = arguments
            if policy.sha256 == self.held and policy.state is None:
                self.calls.append((method, arguments))  # it keeps what it holds, moments included
            else:
                self.calls = [(method, arguments)]
            self.held = policy.sha256
        elif method == "load_state":
            self.calls, self.held = [(method, arguments)], ""
        elif method == "update":
            self.calls.append((method, arguments))
            self.held = ""
        elif method == "publish":
            assert isinstance(result, Policy)
            self.calls.append((method, arguments))  # a learner knows only then what it holds
            self.held = result.sha256


def clear(method: str, arguments: tuple[Any, ...]) -> None:
    """Remove what a call that is to be made again may have left: half a checkpoint."""
    if method in ("save_policy", "save_state"):
        folder = arguments[0]
        assert isinstance(folder, Path)
        shutil.rmtree(folder, ignore_errors=True)
