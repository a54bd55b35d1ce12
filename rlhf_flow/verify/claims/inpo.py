"""INPO fits a step of online mirror descent to pairs; its last iterate converges to the regularised Nash policy.

Zhang et al. 2024, arXiv:2407.00617.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from rlhf_flow.games.equilibrium import gap, kl, nash, tilted
from rlhf_flow.objective.inpo import INPO
from rlhf_flow.sampler.policy import PolicySampler
from rlhf_flow.selector.tournament import Tournament
from rlhf_flow.types import SamplingParams
from rlhf_flow.verify.claim import Claim, Finding, above, below
from rlhf_flow.verify.games import CYCLE, LONGER
from rlhf_flow.verify.play import Played, play
from rlhf_flow.verify.setting import SAMPLED, SELF_PLAY

TAU = 0.1


def mirror_step(seed: int) -> Iterator[Finding]:
    eta = 0.5
    for name, game, sampler in (
        ("own pairs", CYCLE, SELF_PLAY),
        ("own pairs, answers of 1 to 3 tokens", LONGER, SELF_PLAY),
        ("uniform pairs", CYCLE, PolicySampler(draws=[SamplingParams("policy", n=2, temperature=1e9)])),
    ):
        played = play(game, objective=INPO(eta=eta, tau=TAU), sampler=sampler, rounds=4, seed=seed)
        far = max(_from_closed_form(played, round, eta) for round in range(1, 5))
        what = f"distance of a fitted step to the closed form, {name}"
        yield above(what, far, 0.02) if name == "uniform pairs" else below(what, far, 1e-8)


def _from_closed_form(played: Played, round: int, eta: float) -> float:
    (game,) = played.board.games
    last = played.of()[round - 1]
    anchor = last ** (1 - TAU / eta) * game.reference ** (TAU / eta)
    return float(np.abs(played.of()[round] - tilted(anchor, game.wins @ last / eta)).max())


def last_iterate(seed: int) -> Iterator[Finding]:
    for eta, most in ((0.2, 1e-6), (0.5, 1e-6), (2.0, 1e-5)):
        yield below(f"duality gap after 100 rounds, eta={eta:g}", _gap_of(eta, seed), most)
    yield above("duality gap after 100 rounds, eta=0.11: too near to tau", _gap_of(0.11, seed), 1e-2)


def _gap_of(eta: float, seed: int) -> float:
    played = play(CYCLE, objective=INPO(eta=eta, tau=TAU), rounds=100, seed=seed)
    return gap(CYCLE, played.of()[-1], TAU)


def bound(seed: int) -> Iterator[Finding]:
    rounds = 300
    played = play(CYCLE, objective=INPO(tau=TAU, decaying=True), rounds=rounds, seed=seed)
    best = nash(CYCLE, TAU)
    largest = max(1.0, TAU * float(np.abs(np.log(best / CYCLE.reference)).max()))  # the paper's C
    share = max(
        kl(best, policy) * TAU**2 * (round + 1) / (32 * largest**2)
        for round, policy in enumerate(played.of())
        if round > 0
    )
    yield below(f"KL(Nash || policy) as a share of 32 C^2 / (tau^2 (T + 1)), at every T <= {rounds}", share, 1.0)


def finite_samples(seed: int) -> Iterator[Finding]:
    played = play(
        CYCLE, objective=INPO(eta=0.5, tau=TAU), selector=SAMPLED, rounds=24, exact=False, copies=3000, seed=seed
    )
    gaps = [gap(CYCLE, policy, TAU) for policy in played.of()[-6:]]
    yield below("duality gap with 3000 labelled pairs a round, mean of the last 6 of 24 rounds", np.mean(gaps), 1e-3)


def tournaments(seed: int) -> Iterator[Finding]:
    played = play(
        CYCLE,
        objective=INPO(eta=0.5, tau=TAU),
        sampler=PolicySampler(draws=[SamplingParams("policy", n=8)]),
        selector=Tournament(label="hard"),
        rounds=20,
        exact=False,
        copies=100,
        seed=seed,
    )
    gaps = [gap(CYCLE, policy, TAU) for policy in played.of()[10:]]
    yield above("largest duality gap of rounds 10 to 20, best against worst of 8", max(gaps), 0.1)


PAPER = "Zhang et al. 2024"
CLAIMS = (
    Claim("V6a", "INPO", "on its own pairs it fits a step of mirror descent", f"{PAPER}, Prop. 3", mirror_step),
    Claim(
        "V6b", "INPO", "its last iterate is the regularised Nash policy", f"{PAPER}, Thm. 4", last_iterate, seconds=4
    ),
    Claim("V6c", "INPO", "KL to Nash falls as 32 C^2 / (tau^2 (T + 1))", f"{PAPER}, Thm. 4", bound, seconds=4),
    Claim("V6d", "INPO", "and so it does from finite samples", f"{PAPER}, Thm. 4", finite_samples, seconds=20),
    Claim(
        "V6e", "INPO", "a tournament's pairs break this where preferences cycle", "rlhf_flow", tournaments, seconds=3
    ),
)
