"""XPO and SELM: optimism finds answers that are rare under the reference.

Xie et al. 2024, arXiv:2405.21046; Zhang et al. 2024, arXiv:2405.19332.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import partial

import numpy as np
import torch

from rlhf_flow.games.game import Board, Game, bradley_terry
from rlhf_flow.games.solvers import Choice, Fit
from rlhf_flow.objective.dpo import DPO
from rlhf_flow.objective.selm import SELM
from rlhf_flow.objective.xpo import XPO
from rlhf_flow.replay import All
from rlhf_flow.sampler.draws import DrawsSampler
from rlhf_flow.sampler.source import Source
from rlhf_flow.schedule import EveryK
from rlhf_flow.selector.best_and_worst import BestAndWorst
from rlhf_flow.selector.cross import Cross
from rlhf_flow.selector.only_pair import OnlyPair
from rlhf_flow.types import Candidate, Message, Prompt
from rlhf_flow.verify.claim import Claim, Finding, above, below
from rlhf_flow.verify.play import Played, play
from rlhf_flow.verify.setting import SELF_PLAY, policy_and_reference

# Keep pairs of equal answers: the exploration term is a sum over all answers of the reference.
OWN_PAIRS = OnlyPair(label="sampled", identical="keep")
AGAINST_REFERENCE = Cross(label="sampled", identical="keep", extra="reference")


def necessary(seed: int) -> Iterator[Finding]:
    """Two arms; the better one is so rare under the reference that the policy does not sample it in time."""
    repeats = 100
    for beta in (0.05, 0.04, 0.03):
        rare = float(np.exp(-1 / (4 * beta)))
        game = bradley_terry([1.0, 0.5], [rare, 1 - rare])
        rounds = int(0.5 * np.exp(1 / (8 * beta)))
        setting = partial(
            play,
            *[game] * repeats,
            memory=All(),
            method=Choice(_bounded([game] * repeats, beta)),
            rounds=rounds,
            exact=False,
            seed=seed,
        )
        plain = setting(objective=DPO(beta=beta), sampler=SELF_PLAY, selector=OWN_PAIRS)
        stuck = (_worse_by(plain) >= 1 / 8).all(0).mean()
        yield above(f"share of runs of online DPO that never come within 1/8, beta={beta:g}, T={rounds}", stuck, 0.85)
        explored = setting(
            objective=XPO(beta=beta, alpha=[1e-2]), sampler=policy_and_reference(), selector=AGAINST_REFERENCE
        )
        optimist = _worse_by(explored)
        yield below(f"the same with XPO, beta={beta:g}", (optimist >= 1 / 8).all(0).mean(), 0.005)
        yield below(f"median distance of XPO to the best arm at the end, beta={beta:g}", np.median(optimist[-1]), 0.01)


def _worse_by(played: Played) -> np.ndarray:
    """The regret of each round's policy, [rounds, games]."""
    return np.stack([0.5 * (1 - played.of(g)[1:, 0]) for g in range(len(played.board.games))], -1)


def _bounded(games: Sequence[Game], beta: float) -> list[torch.Tensor]:
    """Policies of implicit rewards in [-1, 1], on a grid of log-odds; the reference first."""
    (game, *_), board = games, Board(tuple(games))
    odds = np.concatenate([[0.0], np.linspace(-2 / beta, 2 / beta, 400)])
    tables = []
    for shift in odds:
        logits = np.log(game.reference) + np.array([shift, 0.0])
        logps = logits - np.logaddexp.reduce(logits)
        if (np.abs(beta * (logps - np.log(game.reference))) <= 1).all():
            tables.append(torch.tensor(logps).expand(len(board.rows), 2).clone())
    return tables


def hidden_arm(seed: int) -> Iterator[Finding]:
    """The best round of each run counts, as the algorithm returns it; later rounds may explore away from it."""
    beta, repeats, hidden = 0.1, 6, 1e-4
    reference = np.array([hidden, *[(1 - hidden) / 9] * 9])
    game = bradley_terry([2.0, *np.linspace(0.1, 0.9, 9)], reference)
    worth = np.array([2.0, *np.linspace(0.1, 0.9, 9)])
    for name, objective, sampler, selector in (
        ("online DPO", DPO(beta=beta), SELF_PLAY, OWN_PAIRS),
        ("XPO", XPO(beta=beta, alpha=[0.01], clip=30.0), policy_and_reference(), AGAINST_REFERENCE),
    ):
        played = play(
            *[game] * repeats,
            objective=objective,
            sampler=sampler,
            selector=selector,
            memory=All(),
            method=Fit(bound=30.0, most=10, corners=True),
            rounds=25,
            exact=False,
            copies=8,
            seed=seed,
        )
        regret = np.stack([2.0 - played.of(g) @ worth for g in range(repeats)]).min(-1)  # of the best round, [repeats]
        found = (regret < 0.5).mean()
        if name == "XPO":
            yield above(f"share of {repeats} runs in which XPO finds the hidden answer", found, 0.95)
            yield below("median regret of the best round of XPO", np.median(regret), 0.01)
        else:
            yield below(f"share of {repeats} runs in which {name} finds the hidden answer", found, 0.15)


def self_exploring(seed: int) -> Iterator[Finding]:
    """The practical loop: ranks the policy's answer with two of a data set, and renews the reference each round."""
    beta, repeats, hidden, prompts = 0.1, 5, 1e-3, 64
    worth = np.array([2.0, *np.linspace(0.1, 0.9, 9)])
    game = bradley_terry(worth, np.array([hidden, *[(1 - hidden) / 9] * 9]))
    found, first = {}, {}
    for alpha in (0.0, 0.01):
        played = play(
            *[game] * repeats,
            objective=SELM(beta=beta, alpha=alpha),
            sampler=DrawsSampler(
                draws=[
                    Source("policy", n=1),
                    Source("chosen", n=1, policy="dataset", candidate="chosen"),
                    Source("rejected", n=1, policy="dataset", candidate="rejected"),
                ]
            ),
            selector=BestAndWorst(label="sampled", extra="policy"),
            schedule=EveryK(1),
            method=Fit(bound=30.0, most=15, corners=True),
            rounds=2,
            exact=False,
            prompts=_offline(repeats, prompts, worth, seed),
            seed=seed,
        )
        found[alpha] = np.mean([played.of(g)[:, 0].max() > 0.5 for g in range(repeats)])
        first[alpha] = np.median([played.of(g)[1, 0] for g in range(repeats)])
    yield below(f"share of {repeats} runs that find the hidden answer within 2 rounds, alpha=0", found[0.0], 0.34)
    yield above("the same with alpha=0.01", found[0.01], 0.9)
    yield above(
        "probability of the hidden answer after a round, against that with alpha=0", first[0.01] / first[0.0], 10.0
    )


def _offline(games: int, prompts: int, worth: np.ndarray, seed: int) -> tuple[Prompt, ...]:
    """Two distinct common answers per prompt, the better one as chosen."""
    random = np.random.default_rng(seed)
    made = []
    for g in range(games):
        for copy in range(prompts):
            better, worse = sorted(random.choice(np.arange(1, 10), size=2, replace=False), key=lambda k: -worth[k])
            candidates = {name: Candidate(str(k), (int(k),)) for name, k in (("chosen", better), ("rejected", worse))}
            made.append(Prompt(f"{g}/{copy}", (Message("user", f"game {g}"),), (g,), candidates=candidates))
    return tuple(made)


CLAIMS = (
    Claim(
        "V8a",
        "XPO",
        "without exploration online DPO misses a rare arm",
        "Xie et al. 2024, Prop. 2.1",
        necessary,
        seconds=15,
    ),
    Claim("V8b", "XPO", "it finds a hidden answer", "Xie et al. 2024, Thm. 3.1", hidden_arm, seconds=40),
    Claim("V8c", "SELM", "it finds a hidden answer", "Zhang et al. 2024, sec. 4", self_exploring, seconds=12),
)
