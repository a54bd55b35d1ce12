"""Nash-MD: mirror descent against the geometric mixture of policy and reference.

Munos et al. 2023, arXiv:2312.00886. IPO-MD: Calandriello et al. 2024, arXiv:2403.08635.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import numpy as np
import torch
from torch import Tensor

from rlhf_flow.games.equilibrium import gap, kl, nash
from rlhf_flow.games.game import Board, mixed
from rlhf_flow.games.solvers import Descent
from rlhf_flow.objective.inpo import INPO
from rlhf_flow.objective.ipo import IPO
from rlhf_flow.objective.nash_md import NashMD
from rlhf_flow.objective.squared_anchor import SquaredAnchor
from rlhf_flow.sampler.draws import DrawsSampler
from rlhf_flow.sampler.source import Source
from rlhf_flow.selector.cross import Cross
from rlhf_flow.verify.claim import Claim, Finding, above, below, between, near
from rlhf_flow.verify.games import CYCLE, LONGER, random_game
from rlhf_flow.verify.play import play
from rlhf_flow.verify.setting import mixture

TAU = 0.1
# Every answer of the policy against every answer of the opponent, equal ones too: they contribute to the KL.
AGAINST_MIXTURE = Cross(label="soft", identical="keep", first="policy", second="mixture")


def decaying(seed: int) -> Iterator[Finding]:
    for name, game, rounds in (("cycle", CYCLE, 1000), ("10 random answers", random_game(10, seed), 600)):
        played = play(
            game,
            objective=INPO(tau=TAU, decaying=True),
            sampler=replace(mixture(0.0), decaying=True),
            rounds=rounds,
            seed=seed,
        )
        best = nash(game, TAU)
        far = [kl(best, policy) for policy in played.of()]
        share = max(far[round] * TAU**2 * (round + 1) / 8 for round in range(1, rounds + 1))
        yield below(f"KL(Nash || policy) as a share of 8 / (tau^2 (T + 1)), at every T <= {rounds}, {name}", share, 1.0)
        yield below(f"duality gap after {rounds} steps, {name}", gap(game, played.of()[-1], TAU), 1e-5)


def constant(seed: int) -> Iterator[Finding]:
    step = 0.5
    played = play(
        CYCLE, objective=SquaredAnchor(eta=1 / step, tau=TAU), sampler=mixture(step * TAU), rounds=1000, seed=seed
    )
    yield between("duality gap after 1000 steps of size 0.5", gap(CYCLE, played.of()[-1], TAU), 1e-5, 1e-3)


def policy_gradient(seed: int) -> Iterator[Finding]:
    weight = 0.125
    objective = NashMD(tau=TAU)
    exact = play(
        CYCLE,
        objective=objective,
        sampler=against_mixture(weight, n=1),
        selector=AGAINST_MIXTURE,
        method=Descent(lr=2.0),
        rounds=600,
        seed=seed,
    )
    biased = _on_mixtures(weight, seed)
    far = np.abs(exact.of()[-1] - biased).max()
    yield below("exact gradient: distance to the fixed point of IPO-MD", far, 1e-6)
    rounds = 1000
    drawn = play(
        CYCLE,
        objective=objective,
        sampler=against_mixture(weight, n=16),
        selector=AGAINST_MIXTURE,
        method=Descent(lr=0.3),
        rounds=rounds,
        exact=False,
        seed=seed,
    )
    last = drawn.of()[-rounds // 2 :].mean(0)
    yield near(
        "duality gap of the mean policy, 16 + 16 samples a step", gap(CYCLE, last, TAU), gap(CYCLE, biased, TAU), 1e-3
    )


def against_mixture(weight: float, *, n: int) -> DrawsSampler:
    return DrawsSampler(draws=[Source("policy", n=n), Source("mixture", n=n, weight=weight)])


def _on_mixtures(weight: float, seed: int) -> np.ndarray:
    """The fixed point of IPO-MD [K], by exact gradients."""
    played = play(
        CYCLE, objective=IPO(tau=TAU), sampler=mixture(weight), method=Descent(lr=0.5 * TAU), rounds=600, seed=seed
    )
    return played.of()[-1]


def mixture_of_fixed_point(seed: int) -> Iterator[Finding]:
    for weight in (0.125, 0.25, 0.5):
        policy = _on_mixtures(weight, seed)
        blend = policy ** (1 - weight) * CYCLE.reference**weight
        far = np.abs(blend / blend.sum() - nash(CYCLE, TAU / (1 - weight))).max()
        yield below(f"distance of the mixture to Nash at tau / (1 - beta), beta={weight:g}", far, 1e-8)
        yield above(f"duality gap of the policy itself, beta={weight:g}", gap(CYCLE, policy, TAU), 5e-4)


def reward_to_go(seed: int) -> Iterator[Finding]:
    """One step on answers of one to three tokens, against the exact gradient of the game's value."""
    rate, weight = 5.0, 0.125
    played = play(
        LONGER,
        objective=NashMD(tau=TAU),
        sampler=against_mixture(weight, n=1),
        selector=AGAINST_MIXTURE,
        method=Descent(lr=rate),
        rounds=10,
        seed=seed,
    )
    board = played.board
    before, after = (board.logits([played.of()[round]]) for round in (-2, -1))
    step = _free(board, after - before) / rate
    policy = before.clone().requires_grad_()
    opponent = board.token_logps(mixed(before, board.reference, weight)).sum(-1).exp()
    logps, reference = board.token_logps(policy), board.token_logps(board.reference)
    mass = logps.sum(-1).exp()
    ratio = (logps - reference).sum(-1)
    worth = torch.from_numpy(LONGER.wins) @ opponent
    (exact,) = torch.autograd.grad((mass * (worth - TAU * ratio)).sum(), policy, retain_graph=True)
    per_token = (worth[:, None] - 0.5 - TAU * (logps - reference)).detach()  # a token has its own log-ratio only
    (own,) = torch.autograd.grad((mass.detach()[:, None] * per_token * logps).sum(), policy)
    exact, own = _free(board, exact), _free(board, own)
    yield below("distance of a step to the exact gradient, in units of the rate", (step - exact).abs().max(), 1e-4)
    yield above("distance of the form where a token bears its own log-ratio alone", (own - exact).abs().max(), 1e-3)


def _free(board: Board, table: Tensor) -> Tensor:
    """The finite entries of a table, each row centred: a constant in a row does not change the policy."""
    allowed = board.reference.isfinite()
    kept = torch.where(allowed, table, 0.0)
    centred = kept - kept.sum(-1, keepdim=True) / allowed.sum(-1, keepdim=True)
    return centred[allowed]


PAPER = "Munos et al. 2023"
CLAIMS = (
    Claim("V4a", "Nash-MD", "KL to Nash falls as 8 / (tau^2 (T + 1))", f"{PAPER}, Thm. 1", decaying, seconds=12),
    Claim("V4b", "Nash-MD", "constant steps leave a residual", f"{PAPER}, Lemma 2", constant, seconds=8),
    Claim(
        "V4c",
        "Nash-MD-PG",
        "its fixed point is that of the constant mixture",
        f"{PAPER}, sec. 7",
        policy_gradient,
        seconds=25,
    ),
    Claim(
        "V5",
        "IPO-MD",
        "the mixture of its fixed point is Nash at tau / (1 - beta)",
        "Calandriello et al. 2024, Prop. 5.2",
        mixture_of_fixed_point,
        seconds=9,
    ),
    Claim("V11", "Nash-MD-PG", "the KL of a sequence needs its reward to go", f"{PAPER}, sec. 7", reward_to_go),
)
