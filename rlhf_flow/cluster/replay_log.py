"""The calls that a restarted learner replays to recover its weights."""

from __future__ import annotations

import shutil
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from rlhf_flow.types import Policy
from rlhf_flow.weights.publish import DetachedWeights


@dataclass
class CallLog:
    """The calls that led to the learner's weights. Training is deterministic, so replaying them gives equal weights."""

    calls: list[tuple[str, tuple[Any, ...]]] = field(default_factory=list)
    held: str = ""  # sha256 of the published weights that the learner holds; empty after an update

    def record(self, method: str, arguments: tuple[Any, ...], result: object) -> None:
        """Record a call that succeeded. A `start` from other weights, or a `load_state`, makes earlier calls moot."""
        if method == "start":
            (policy,) = arguments
            if policy.sha256 == self.held and policy.state is None:
                # The learner keeps its weights and moments, and so the log needs no weights, which would be copied.
                self.calls.append((method, (replace(policy, weights=DetachedWeights(())),)))
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
            self.calls.append((method, arguments))  # the hash of its weights is part of a learner's state
            self.held = result.sha256


def remove_partial_output(method: str, arguments: tuple[Any, ...]) -> None:
    """Delete the half-written checkpoint of a failed call before it is retried."""
    if method in ("save_policy", "save_state"):
        folder = arguments[0]
        assert isinstance(folder, Path)
        shutil.rmtree(folder, ignore_errors=True)
