"""EGPO: a half step, then a full step from the same policy against the half step.

Zhou, Fazel and Du 2025, arXiv:2503.08942.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import pairwise

from rlhf_flow.games.equilibrium import gap, kl, nash
from rlhf_flow.objective.squared_anchor import SquaredAnchor
from rlhf_flow.protocols import Sampler, Schedule
from rlhf_flow.schedule import Fixed, HalfSteps
from rlhf_flow.verify.claim import Claim, Finding, above, below
from rlhf_flow.verify.games import CYCLE, cyclic_game
from rlhf_flow.verify.play import Played, play
from rlhf_flow.verify.setting import SELF_PLAY, mixture


def linear_rate(seed: int) -> Iterator[Finding]:
    beta, step, rounds = 0.01, 0.8, 2000
    game = cyclic_game(9, seed=0)
    objective = SquaredAnchor(eta=1 / step, tau=beta)

    def last(sampler: Sampler, schedule: Schedule, rounds: int) -> float:
        played = play(game, objective=objective, sampler=sampler, schedule=schedule, rounds=rounds, seed=seed)
        return gap(game, played.of()[-1], beta)

    yield below(f"duality gap of EGPO after {rounds} half steps", last(SELF_PLAY, HalfSteps(), rounds), 1e-7)
    yield above(f"of mirror descent after {rounds // 2} steps", last(SELF_PLAY, Fixed(), rounds // 2), 0.05)
    yield above(f"of Nash-MD after {rounds // 2} steps", last(mixture(step * beta), Fixed(), rounds // 2), 0.05)


def contraction(seed: int) -> Iterator[Finding]:
    step = 0.3
    for beta in (0.05, 0.1, 0.2):
        played = _played(beta, step, 60, seed)
        best = nash(CYCLE, beta)
        far = [kl(best, policy) for policy in played.of()[::2]]
        worst = max(after / before for before, after in pairwise(far) if before > 1e-10)
        yield below(f"largest factor of KL(Nash || policy) in a step, beta={beta:g}", worst, 1 - step * beta + 1e-6)


def _played(beta: float, step: float, rounds: int, seed: int) -> Played:
    return play(CYCLE, objective=SquaredAnchor(eta=1 / step, tau=beta), schedule=HalfSteps(), rounds=rounds, seed=seed)


PAPER = "Zhou et al. 2025"
CLAIMS = (
    Claim("V10", "EGPO", "linear rate of the last iterate", f"{PAPER}, Thm. 1", linear_rate, seconds=60),
    Claim("V10b", "EGPO", "each step contracts KL to Nash by 1 - eta beta", f"{PAPER}, Thm. 1", contraction, seconds=3),
)
