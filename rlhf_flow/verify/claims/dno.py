"""DNO regresses log-ratios on win rates: soft policy iteration, whose average converges to the Nash policy.

Rosset et al. 2024, arXiv:2404.03715. SPPO, Wu et al. 2024, arXiv:2405.00675, per response.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from rlhf_flow.games.equilibrium import gap, tilted
from rlhf_flow.objective.dno import DNO
from rlhf_flow.objective.sppo import SPPO
from rlhf_flow.verify.claim import Claim, Finding, above, below
from rlhf_flow.verify.games import CYCLE, LONGER, ROCK_PAPER_SCISSORS
from rlhf_flow.verify.play import play


def regression(seed: int) -> Iterator[Finding]:
    eta = 0.4
    for name, game in (("one-token answers", CYCLE), ("answers of 1 to 3 tokens", LONGER)):
        played = play(game, objective=DNO(eta=eta), rounds=3, seed=seed)
        far = 0.0
        for before, after in zip(played.of()[:-1], played.of()[1:], strict=True):
            reward = eta * np.log(after / before)
            far = max(far, float(np.abs((reward - reward.mean()) - _centred(game.wins @ before)).max()))
        yield below(f"distance of eta log(pi' / pi) to P(. beats pi), both centred, {name}", far, 1e-8)


def _centred(values: np.ndarray) -> np.ndarray:
    return np.asarray(values - values.mean())


def regularised(seed: int) -> Iterator[Finding]:
    eta, tau = 0.4, 0.1
    played = play(CYCLE, objective=DNO(eta=eta, tau=tau), rounds=60, seed=seed)
    last = played.of()[-2]
    closed = tilted(last ** (1 - tau / eta) * CYCLE.reference ** (tau / eta), CYCLE.wins @ last / eta)
    yield below("distance of a regularised step to its closed form", np.abs(played.of()[-1] - closed).max(), 1e-8)
    yield below("duality gap after 60 of them", gap(CYCLE, played.of()[-1], tau), 1e-6)


def average(seed: int) -> Iterator[Finding]:
    games = {"cycle": CYCLE, "rock, paper, scissors": ROCK_PAPER_SCISSORS}
    rounds = 1500
    played = play(*games.values(), objective=DNO(eta=2.0), rounds=rounds, seed=seed)
    for g, (name, game) in enumerate(games.items()):
        policies = played.of(g)
        yield below(f"unregularised gap of the average policy, {name}", gap(game, policies.mean(0), 0.0), 0.02)
        last = max(gap(game, policy, 0.0) for policy in policies[rounds // 2 :])
        yield above(f"largest gap of a single policy in the second half, {name}", last, 0.5)


def absolute(seed: int) -> Iterator[Finding]:
    """A small step, for which eta / 2 is close to the log-normaliser that SPPO omits."""
    eta = 0.05
    played = play(CYCLE, objective=SPPO(eta=eta), rounds=1, seed=seed)
    before, after = played.of()
    exact = tilted(before, eta * CYCLE.wins @ before)
    yield below("distance of a step of size 0.05 to pi exp(eta P(. beats pi))", np.abs(after - exact).max(), 1e-4)
    yield above("the step itself", np.abs(after - before).max(), 1e-3)


PAPER = "Rosset et al. 2024"
CLAIMS = (
    Claim("V7a", "DNO", "its minimiser is pi exp(P(. beats pi) / eta)", f"{PAPER}, Alg. 1", regression),
    Claim(
        "V7b", "DNO", "the average is the Nash policy, the last iterate cycles", f"{PAPER}, Thm. 1", average, seconds=25
    ),
    Claim("V7c", "DNO", "regularised, its last iterate is the Nash policy", f"{PAPER}, App. A", regularised, seconds=3),
    Claim("V7d", "SPPO", "a small step is one of multiplicative weights", "Wu et al. 2024, eq. 4.3", absolute),
)
