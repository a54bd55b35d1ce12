"""Online IPO is self-play that converges to the regularised Nash policy; offline IPO does not.

Azar et al. 2023, arXiv:2310.12036; Calandriello et al. 2024, arXiv:2403.08635.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from rlhf_flow.games.equilibrium import gap, kl, nash, tilted
from rlhf_flow.games.solvers import Descent
from rlhf_flow.objective.ipo import IPO, SWINGS
from rlhf_flow.sampler.draws import DrawsSampler
from rlhf_flow.sampler.policy import PolicySampler
from rlhf_flow.sampler.source import Source
from rlhf_flow.selector.all_pairs import AllPairs
from rlhf_flow.selector.only_pair import OnlyPair
from rlhf_flow.types import Candidate, Message, Prompt, SamplingParams
from rlhf_flow.verify.claim import Claim, Finding, above, below, near
from rlhf_flow.verify.games import CYCLE, LONGER, cyclic_game
from rlhf_flow.verify.play import Played, play

TAU = 0.1


def gradient(seed: int) -> Iterator[Finding]:
    """The gradient of several rounds against the analytic gradient of P(pi beats sg pi) - tau KL(pi || ref)."""
    rate = 0.02
    played = play(CYCLE, objective=IPO(tau=TAU), method=Descent(lr=rate), rounds=5, seed=seed)
    for round in (2, 5):
        policy = played.of()[round - 1]
        step = _log_change(played, round)  # of log-probabilities, centred
        worth = CYCLE.wins @ policy - TAU * np.log(policy / CYCLE.reference)
        ascent = policy * (worth - policy @ worth)
        # The loss is a mean over pairs of distinct answers; the expectation includes equal ones, of gradient 0.
        step = step * (1 - (policy**2).sum())
        ascent = ascent - ascent.mean()
        cosine = step @ ascent / np.linalg.norm(step) / np.linalg.norm(ascent)
        yield near(f"cosine of the step with the self-play gradient, round {round}", cosine, 1.0, 1e-9)
        ratio = np.linalg.norm(step) / np.linalg.norm(ascent) / rate
        yield near(f"length of the gradient in its units (4 / tau), round {round}", ratio, 4 / TAU, 1e-6)


def _log_change(played: Played, round: int) -> np.ndarray:
    """The change of the log-probabilities in a round, centred. [K]"""
    policies = played.of()
    change = np.log(policies[round]) - np.log(policies[round - 1])
    return np.asarray(change - change.mean())


def stationary(seed: int) -> Iterator[Finding]:
    for tau, rounds in ((0.1, 500), (0.05, 1000)):
        played = play(CYCLE, LONGER, objective=IPO(tau=tau), method=Descent(lr=0.5 * tau), rounds=rounds, seed=seed)
        for name, g in (("one-token answers", 0), ("answers of 1 to 3 tokens", 1)):
            last = gap(CYCLE, played.of(g)[-1], tau)
            yield below(f"duality gap, tau={tau:g}, {name}, after {rounds} steps", last, 1e-6)


def sampled(seed: int) -> Iterator[Finding]:
    rounds = 1500
    played = play(
        CYCLE,
        objective=IPO(tau=TAU),
        sampler=PolicySampler(draws=[SamplingParams("policy", n=24)]),
        selector=AllPairs(label="sampled"),
        method=Descent(lr=0.3 * TAU / 4),
        rounds=rounds,
        exact=False,
        seed=seed,
    )
    last = np.median([gap(CYCLE, policy, TAU) for policy in played.of()[-rounds // 4 :]])
    yield below(f"duality gap, all pairs of 24 answers a step, median of the last {rounds // 4} steps", last, 1e-3)


def offline(seed: int) -> Iterator[Finding]:
    """A data set with one pair per combination of tenths, 100 in all, so expectations are exact."""
    found = []
    for data in (np.array([6, 3, 1]), np.array([1, 3, 6])):
        played = play(
            CYCLE,
            objective=IPO(tau=TAU),
            sampler=DrawsSampler(draws=[_candidate("one"), _candidate("other")]),
            selector=OnlyPair(label="soft"),
            rounds=1,
            prompts=_data_set(data),
            seed=seed,
        )
        optimum = tilted(CYCLE.reference, CYCLE.wins @ (data / 10) / TAU)
        yield below(f"distance to ref * exp(P(. beats mu) / tau), mu={data / 10}", _far(played.of()[-1], optimum), 1e-8)
        yield above(f"duality gap, mu={data / 10}", gap(CYCLE, played.of()[-1], TAU), 0.05)
        found.append(played.of()[-1])
    yield above("distance of the two optima", _far(*found), 0.3)
    yield above("KL of the equilibrium to the farther optimum", max(kl(nash(CYCLE, TAU), one) for one in found), 0.1)


def swings(seed: int) -> Iterator[Finding]:
    """Every round solved to the minimum of its loss: the best response to the answers of the round before."""
    games = (*(cyclic_game(3, each) for each in range(7)), CYCLE)
    for tau in (0.1, SWINGS):
        played = play(*games, objective=IPO(tau=tau), rounds=60, seed=seed)
        ends = [gap(game, played.of(g)[-1], tau) / gap(game, game.reference, tau) for g, game in enumerate(games)]
        what = f"gap after 60 rounds as a share of the start's, median of 8 rings, tau={tau:g}"
        yield above(what, np.median(ends), 1.0) if tau < SWINGS else below(what, np.median(ends), 1e-6)


def _candidate(name: str) -> Source:
    return Source(name, n=1, policy="dataset", candidate=name)


def _data_set(tenths: np.ndarray) -> tuple[Prompt, ...]:
    answers = np.repeat(np.arange(len(tenths)), tenths)
    return tuple(
        Prompt(
            id=f"0/{i}/{j}",
            messages=(Message("user", "game 0"),),
            tokens=(0,),
            candidates={"one": Candidate(str(a), (int(a),)), "other": Candidate(str(b), (int(b),))},
        )
        for i, a in enumerate(answers)
        for j, b in enumerate(answers)
    )


def _far(one: np.ndarray, other: np.ndarray) -> float:
    return float(np.abs(one - other).max())


PAPER = "Calandriello et al. 2024"
CLAIMS = (
    Claim("V1a", "online IPO", "its gradient is that of regularised self-play", f"{PAPER}, Prop. 4.2", gradient),
    Claim("V1b", "online IPO", "it ends at the regularised Nash policy", f"{PAPER}, Prop. 4.1", stationary, seconds=6),
    Claim("V1c", "online IPO", "so it does from sampled labels", f"{PAPER}, Prop. 4.1", sampled, seconds=15),
    Claim("V1d", "offline IPO", "its optimum depends on where the pairs are from", "Azar et al. 2023, eq. 17", offline),
    Claim("V1e", "online IPO", "rounds at the minimum of a small tau swing", "config/compatibility", swings, seconds=4),
)
