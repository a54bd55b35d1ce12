"""An engine that answers with what it was asked."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from rlhf_flow.types import Candidate, Mixture, Policy, Prompt, Response, Rollouts, SamplingParams
from rlhf_flow.weights.source import Checkpoint

PROMPTS = [
    Prompt("a", (), (0,), candidates={"gold": Candidate("yes", (7, 8, 2)), "worse": Candidate("no", (9, 2))}),
    Prompt("b", (), (0, 1), candidates={"gold": Candidate("b", (5, 2))}),
]
POLICIES = {
    role: Policy(role, 3, f"hash of {role}", Checkpoint(Path("x"))) for role in ("policy", "reference", "opponent")
}


class Echo:
    def __init__(self) -> None:
        self.asked: list[tuple[Policy | Mixture, SamplingParams]] = []

    def generate(
        self, prompts: Sequence[Prompt], policy: Policy | Mixture, draw: SamplingParams, *, round: int, seed: int
    ) -> Rollouts:
        self.asked.append((policy, draw))

        def response(prompt: Prompt, k: int) -> Response:
            name = f"{round}/{draw.name}/{k}/{prompt.id}"
            return Response(name, np.zeros(1, np.int32), "", np.zeros(1, np.float32), False, draw, seed, policy.sha256)

        groups = tuple(tuple(response(prompt, k) for k in range(draw.n)) for prompt in prompts)
        return Rollouts(round, tuple(prompts), groups)

    def close(self) -> None: ...


def ids(rollouts: Rollouts) -> list[list[str]]:
    return [[response.id for response in group] for group in rollouts.responses]
