"""Constants that are often wrong in code: noisy labels, normalisers, hinges."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import torch

from rlhf_flow.games.game import Game
from rlhf_flow.objective.dpo import DPO
from rlhf_flow.objective.slic import SLiC
from rlhf_flow.types import PairLogps, Sides, TokenLogps
from rlhf_flow.verify.claim import Claim, Finding, above, near
from rlhf_flow.verify.play import play


def noisy_labels(seed: int) -> Iterator[Finding]:
    """A label that is wrong with probability epsilon is a preference of 1 - epsilon."""
    for epsilon in (0.1, 0.2):
        game = Game(np.array([[0.5, 1 - epsilon], [epsilon, 0.5]]), np.array([0.3, 0.7]))
        beta = 0.7
        policy = play(game, objective=DPO(beta=beta), rounds=1, seed=seed).of()[-1]
        ratio = np.log(policy / game.reference)
        expected = np.log((1 - epsilon) / epsilon)
        yield near(
            f"beta times the margin at the optimum, epsilon={epsilon}", beta * (ratio[0] - ratio[1]), expected, 1e-9
        )


def normaliser(seed: int) -> Iterator[Finding]:
    eta = 1000.0
    wins = np.random.default_rng(seed).uniform(0.2, 0.8, size=20)
    wins += 0.5 - wins.mean()  # the mean win rate of a policy against itself is 1/2
    log_z = np.logaddexp.reduce(eta * wins) - np.log(wins.size)
    yield above("log Z at eta=1000, which SPPO sets to eta / 2 = 500", log_z, eta / 2)


def hinge(seed: int) -> Iterator[Finding]:
    for beta in (0.002, 0.1):
        for where, margin, expected in (
            ("no margin", 0.0, -beta),
            ("just inside", (1 - 1e-6) / beta, -beta),
            ("just beyond", (1 + 1e-6) / beta, 0.0),
        ):
            pairs, winner = _pair(margin)
            (gradient,) = torch.autograd.grad(SLiC(beta=beta).loss(pairs).values.sum(), winner)
            yield near(f"gradient of the winner's log-prob, beta={beta:g}, {where}", float(gradient), expected, 1e-12)


def _pair(margin: float) -> tuple[PairLogps, torch.Tensor]:
    winner = torch.tensor([[margin - 5.0]], dtype=torch.float64, requires_grad=True)
    other = torch.tensor([[-5.0]], dtype=torch.float64)
    mask = torch.ones((1, 1), dtype=torch.bool)
    return PairLogps(
        current=Sides(TokenLogps(winner, mask), TokenLogps(other, mask)),
        anchors={"reference": Sides(TokenLogps(other, mask), TokenLogps(other, mask))},
        preference=torch.ones(1, dtype=torch.float64),
        weight=torch.ones(1, dtype=torch.float64),
    ), winner


CLAIMS = (
    Claim("V12", "DPO", "labels wrong with epsilon: its optimum is logit(1 - epsilon)", "Mitchell 2023", noisy_labels),
    Claim("V12b", "SPPO", "the normaliser is above eta / 2", "Wu et al. 2024, sec. 4", normaliser),
    Claim("V13", "SLiC", "the hinge leaves a pair alone beyond its margin", "Guo et al. 2024, eq. 3", hinge),
)
