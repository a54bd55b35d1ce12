"""Engine of tabular policies: samples answers, or enumerates them with their probabilities."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from rlhf_flow.games.game import LOGITS, Board, mixed
from rlhf_flow.seeds import derive
from rlhf_flow.types import Mixture, Policy, Prompt, Response, Rollouts, SamplingParams

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True)
class TabularEngine:
    """Implements `protocols.Engine` for the games of a board.

    `enumerates`: every draw gives all K answers once, with their probabilities as masses, regardless of `n`; training
    then uses exact expectations.
    """

    board: Board
    enumerates: bool = True

    def generate(
        self, prompts: Sequence[Prompt], policy: Policy | Mixture, draw: SamplingParams, *, round: int, seed: int
    ) -> Rollouts:
        values = self.board.token_logps(_logits(policy, draw.temperature)).numpy()  # [A, T]
        groups = []
        for prompt in prompts:
            game = prompt.tokens[0]
            answers, logps = self.board.games[game].answers, values[self.board.of_game[game]]
            mass = np.exp(logps.sum(-1))
            base = derive(seed, round, prompt.id, draw.name)
            if self.enumerates:
                drawn = range(len(answers))
            else:
                drawn = np.random.default_rng(base).choice(len(answers), size=draw.n, p=mass / mass.sum()).tolist()
            groups.append(
                tuple(
                    Response(
                        id=f"{round}/{draw.name}/{k}/{prompt.id}",
                        tokens=np.asarray(answers[answer], dtype=np.int32),
                        text=" ".join(map(str, answers[answer])),
                        logps=logps[answer, : len(answers[answer])].astype(np.float32),
                        truncated=False,
                        draw=draw,
                        seed=base + k,
                        policy=policy.sha256,
                        mass=float(mass[answer]) if self.enumerates else 1.0,
                    )
                    for k, answer in enumerate(drawn)
                )
            )
        return Rollouts(round=round, prompts=tuple(prompts), responses=tuple(groups))

    def close(self) -> None: ...


def _logits(policy: Policy | Mixture, temperature: float) -> Tensor:
    if isinstance(policy, Mixture):
        one, other = (each.weights.load()[LOGITS] for each in (policy.policy, policy.reference))
        return mixed(one, other, policy.weight) / temperature
    return policy.weights.load()[LOGITS] / temperature
