"""Online and iterative DPO: exact if preferences are transitive, and not the Nash policy if they are not.

Guo et al. 2024, arXiv:2402.04792; Xiong et al. 2023, arXiv:2312.11456; Dong et al. 2024, arXiv:2405.07863.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from rlhf_flow.games.equilibrium import gap, kl, nash, tilted
from rlhf_flow.games.game import Game, bradley_terry
from rlhf_flow.games.solvers import Descent, Fit
from rlhf_flow.objective.dpo import DPO
from rlhf_flow.objective.ipo import IPO
from rlhf_flow.replay import All
from rlhf_flow.sampler.policy import PolicySampler
from rlhf_flow.schedule import EveryK
from rlhf_flow.selector.best_and_worst import BestAndWorst
from rlhf_flow.types import SamplingParams
from rlhf_flow.verify.claim import Claim, Finding, above, below, near
from rlhf_flow.verify.games import CYCLE, NUMBERS, ROCK_PAPER_SCISSORS, TWO_ARMS
from rlhf_flow.verify.play import Played, play
from rlhf_flow.verify.setting import SAMPLED


def _online(game: Game, beta: float, rounds: int, seed: int) -> np.ndarray:
    played = play(game, objective=DPO(beta=beta), method=Descent(lr=4 / beta), rounds=rounds, seed=seed)
    return played.of()[-1]


def two_arms(seed: int) -> Iterator[Finding]:
    policy = _online(TWO_ARMS, 1.0, 200, seed)
    yield near("probability of the better arm", policy[0], 0.7, 1e-4)
    yield near("the same at the regularised Nash policy", nash(TWO_ARMS, 1.0)[0], 0.5498, 1e-4)
    yield above("duality gap of online DPO", gap(TWO_ARMS, policy, 1.0), 0.05)


def cycle(seed: int) -> Iterator[Finding]:
    for beta in (0.5, 1.0):
        yield above(
            f"duality gap of online DPO, beta={beta:g}", gap(CYCLE, _online(CYCLE, beta, 300, seed), beta), 0.08
        )
        played = play(CYCLE, objective=IPO(tau=beta), method=Descent(lr=0.5 * beta), rounds=300, seed=seed)
        yield below(f"duality gap of online IPO, tau={beta:g}", gap(CYCLE, played.of()[-1], beta), 1e-6)


def numbers(seed: int) -> Iterator[Finding]:
    worth = np.log(NUMBERS.wins[:, 0] / NUMBERS.wins[0, :])  # reward relative to the first answer
    for beta in (0.5, 1.0):
        played = play(NUMBERS, objective=DPO(beta=beta), rounds=1, seed=seed)
        far = np.abs(played.of()[-1] - tilted(NUMBERS.reference, worth / beta)).max()
        yield below(f"distance to ref * exp(r / beta), beta={beta:g}", far, 1e-6)


def refreshed(seed: int) -> Iterator[Finding]:
    played = play(ROCK_PAPER_SCISSORS, objective=DPO(beta=5.0), schedule=EveryK(1), rounds=100, seed=seed)
    gaps = [gap(ROCK_PAPER_SCISSORS, policy, 0.0) for policy in played.of()]
    yield above(f"unregularised gap after 100 rounds (at the start {gaps[0]:.2f})", gaps[-1], gaps[0])


def fixed_reference(seed: int) -> Iterator[Finding]:
    """Random pairs of the policy's answers, sampled labels, replay of all rounds; one game per repetition."""
    beta, repeats = 0.3, 3
    random = np.random.default_rng(seed)
    game = bradley_terry(random.normal(size=6), random.dirichlet(np.ones(6) * 3))
    worth = np.log(game.wins[:, 0] / game.wins[0, :])
    best = tilted(game.reference, worth / beta)
    for pairs, most in ((200, 0.15), (2000, 0.02)):
        played = play(
            *[game] * repeats,
            objective=DPO(beta=beta),
            selector=SAMPLED,
            memory=All(),
            method=Fit(bound=60.0),
            rounds=3,
            exact=False,
            copies=pairs,
            seed=seed,
        )
        far = [np.mean([kl(best, played.of(g)[round]) for g in range(repeats)]) for round in range(4)]
        yield below(f"KL(optimum || policy) after 3 rounds of {pairs} pairs, mean of {repeats}", far[3], most)
        yield below(f"the same against that of round 1 ({pairs} pairs)", far[3], far[1])


def best_and_worst(seed: int) -> Iterator[Finding]:
    beta = 1.0
    game = bradley_terry(np.linspace(0.0, 1.5, 6), np.full(6, 1 / 6))
    played = play(
        game,
        objective=DPO(beta=beta),
        sampler=PolicySampler(draws=[SamplingParams("policy", n=8)]),
        selector=BestAndWorst(label="hard"),
        memory=All(),
        method=Fit(bound=1000.0, most=8),
        rounds=6,
        exact=False,
        copies=100,
        seed=seed,
    )
    spread = [_spread(played, game, beta, round) for round in (3, 6)]
    yield above("spread of the implicit reward (of the true one: 1.5)", spread[-1], 15.0)
    yield above("the same against three rounds earlier: it does not settle", spread[-1], spread[0])


def _spread(played: Played, game: Game, beta: float, round: int) -> float:
    reward = beta * np.log(played.of()[round] / game.reference)
    return float(reward.max() - reward.min())


CLAIMS = (
    Claim(
        "V2a", "online DPO", "it is not the Nash policy, even of two arms", "Calandriello et al. 2024, App. F", two_arms
    ),
    Claim(
        "V2b",
        "online DPO",
        "nor that of a cycle, where online IPO is",
        "Calandriello et al. 2024, App. F",
        cycle,
        seconds=4,
    ),
    Claim("V2c", "online DPO", "with Bradley-Terry labels it is ref * exp(r / beta)", "Rafailov et al. 2023", numbers),
    Claim(
        "V3", "iterative DPO", "with a renewed reference it need not converge", "Dong et al. 2024", refreshed, seconds=3
    ),
    Claim(
        "V9a", "iterative DPO", "error falls with rounds and samples", "Xiong et al. 2023", fixed_reference, seconds=20
    ),
    Claim(
        "V9b",
        "iterative DPO",
        "best against worst with hard labels has no scale",
        "rlhf_flow",
        best_and_worst,
        seconds=3,
    ),
)
