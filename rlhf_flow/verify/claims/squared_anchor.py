"""One squared loss gives the mirror-descent family by choice of sampler and schedule.

INPO, exact Nash-MD, EGPO, MPO and DNO with preference labels: each step against its closed form.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from rlhf_flow.games.equilibrium import gap, tilted
from rlhf_flow.games.game import Game
from rlhf_flow.objective.squared_anchor import SquaredAnchor
from rlhf_flow.protocols import Sampler, Schedule
from rlhf_flow.schedule import EveryK, Fixed, HalfSteps
from rlhf_flow.verify.claim import Claim, Finding, below
from rlhf_flow.verify.games import CYCLE, ROCK_PAPER_SCISSORS, random_game
from rlhf_flow.verify.play import play
from rlhf_flow.verify.setting import SELF_PLAY, mixture

ETA, TAU = 0.5, 0.1


def closed_forms(seed: int) -> Iterator[Finding]:
    share = TAU / ETA
    for name, tau, sampler, schedule in (
        ("INPO", TAU, SELF_PLAY, Fixed()),
        ("exact Nash-MD", TAU, mixture(share), Fixed()),
        ("EGPO", TAU, SELF_PLAY, HalfSteps()),
        ("MPO, magnet renewed every 3 rounds", TAU, SELF_PLAY, EveryK(3)),
        ("DNO, SPO: no reference", 0.0, SELF_PLAY, Fixed()),
    ):
        for game in (CYCLE, random_game(6, seed)):
            far = _distance(game, tau, sampler, schedule, mixes=sampler is not SELF_PLAY, seed=seed)
            yield below(f"largest distance of 8 steps to their closed forms, {name}, {game.size} answers", far, 1e-10)


def _distance(game: Game, tau: float, sampler: Sampler, schedule: Schedule, *, mixes: bool, seed: int) -> float:
    rounds, share = 8, tau / ETA
    played = play(
        game, objective=SquaredAnchor(eta=ETA, tau=tau), sampler=sampler, schedule=schedule, rounds=rounds, seed=seed
    )
    policies, far = played.of(), 0.0
    for round in range(1, rounds + 1):
        plan = schedule.at(round, ())
        before, reference = (policies[plan.anchors[name]] for name in ("previous", "reference"))
        opponent = policies[plan.samplers["policy"]]
        if mixes:
            opponent = tilted(opponent ** (1 - share) * game.reference**share, np.zeros(game.size))
        anchor = before ** (1 - share) * reference**share
        closed = tilted(anchor, game.wins @ opponent / ETA)
        far = max(far, float(np.abs(policies[round] - closed).max()))
    return far


def magnet(seed: int) -> Iterator[Finding]:
    """With a renewed reference, the regularised Nash policies converge to the unregularised one."""
    gaps = {}
    for refreshes in (1, 12):
        played = play(
            ROCK_PAPER_SCISSORS,
            objective=SquaredAnchor(eta=2.2, tau=0.2),
            schedule=EveryK(60),
            rounds=60 * refreshes,
            seed=seed,
        )
        gaps[refreshes] = gap(ROCK_PAPER_SCISSORS, played.of()[-1], 0.0)
    yield below("unregularised gap after 12 magnets", gaps[12], 0.02)
    yield below("as a share of that after the first", gaps[12] / gaps[1], 0.1)


CLAIMS = (
    Claim(
        "V14",
        "the mirror-descent family",
        "one loss, five methods",
        "objective/squared_anchor",
        closed_forms,
        seconds=3,
    ),
    Claim(
        "V14b",
        "MPO",
        "renewing the magnet goes on to the unregularised Nash policy",
        "Wang et al. 2024",
        magnet,
        seconds=7,
    ),
)
