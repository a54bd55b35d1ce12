"""Claims of methods on answers that the policy did not sample: a data set's, and accepted ones of the reference."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import numpy as np

from rlhf_flow.games.equilibrium import kl, tilted
from rlhf_flow.games.game import Board
from rlhf_flow.games.solvers import Descent
from rlhf_flow.metrics.stats import sigmoid
from rlhf_flow.objective.hypo import HyPO
from rlhf_flow.sampler.draws import DrawsSampler
from rlhf_flow.sampler.source import Source
from rlhf_flow.selector.cross import Cross
from rlhf_flow.selector.rejection import Rejection
from rlhf_flow.types import Candidate, Message, Prompt, Response, Rollouts, SamplingParams, Scored, Selection
from rlhf_flow.verify.claim import Claim, Finding, above, below
from rlhf_flow.verify.games import CYCLE
from rlhf_flow.verify.play import play

REWARDS = np.array([0.0, 0.5, 1.2])
REFERENCE = np.array([0.6, 0.3, 0.1])


def bounded(seed: int) -> Iterator[Finding]:
    """Of three answers the data have two. On hard labels DPO leaves for the winner; HyPO stays in reach."""
    prompts = tuple(
        replace(prompt, candidates={"chosen": _answer(0), "rejected": _answer(1)})
        for prompt in Board((CYCLE,)).prompts()
    )
    draws = [
        Source("policy", n=1),
        *(Source(name, n=1, policy="dataset", candidate=name) for name in ("chosen", "rejected")),
    ]
    far = {}
    for name, weight in (("DPO", 0.0), ("HyPO", 4.0)):
        played = play(
            CYCLE,
            objective=HyPO(beta=0.5, kl=weight),
            sampler=DrawsSampler(draws=draws),
            selector=AllOfPolicy(label="hard", first="chosen", second="rejected", extra="policy"),
            method=Descent(lr=0.5),
            rounds=600,
            prompts=prompts,
            seed=seed,
        )
        far[name] = kl(played.of()[-1], CYCLE.reference)
    yield below("HyPO: KL to the reference after 600 steps", far["HyPO"], 0.2)
    yield above("DPO: the same", far["DPO"], 0.35)


def rejected(seed: int) -> Iterator[Finding]:
    """Accepted answers of the reference follow ref exp(r / beta)."""
    beta, answers, prompts = 0.5, 64, 300
    rng = np.random.default_rng(seed)
    drawn = rng.choice(3, size=(prompts, answers), p=REFERENCE)
    selector = Rejection(beta=beta, accept=8, label="soft", identical="keep")
    chosen = [
        int(id.split("/")[1])
        for pair in selector.select(_scored(drawn)).pairs
        for id in (pair.first, pair.second)
        if id is not None
    ]
    share = np.bincount(chosen, minlength=3) / len(chosen)
    yield below(
        "distance of the accepted answers to ref exp(r / beta)",
        np.abs(share - tilted(REFERENCE, REWARDS / beta)).max(),
        0.06,
    )
    yield above("of the reference", np.abs(REFERENCE - tilted(REFERENCE, REWARDS / beta)).max(), 0.2)


class AllOfPolicy(Cross):
    """The pairs of `Cross` once for each enumerated answer of the third draw, weighted by its probability."""

    def select(self, scored: Scored) -> Selection:
        selection = super().select(scored)
        by_prompt = {
            prompt.id: [one for one in group if one.draw.name == self.extra]
            for prompt, group in zip(scored.rollouts.prompts, scored.rollouts.responses, strict=True)
        }
        pairs = tuple(
            replace(pair, extra=one.id, weight=pair.weight * one.mass)
            for pair in selection.pairs
            for one in by_prompt[pair.prompt]
        )
        return replace(selection, pairs=pairs)


def _answer(token: int) -> Candidate:
    return Candidate(str(token), (token,))


def _scored(drawn: np.ndarray) -> Scored:
    """Answers [B, N], by number, with their rewards."""
    draw = SamplingParams(n=drawn.shape[1])
    prompts = tuple(Prompt(str(b), (Message("user", ""),), (0,)) for b in range(len(drawn)))

    def response(b: int, k: int) -> Response:
        answer = int(drawn[b, k])
        return Response(f"{b}/{answer}/{k}", np.array([answer], np.int32), str(answer), None, False, draw, b, "")

    groups = tuple(tuple(response(b, k) for k in range(drawn.shape[1])) for b in range(len(drawn)))
    utility = REWARDS[drawn]
    return Scored(Rollouts(1, prompts, groups), utility, sigmoid(utility[:, :, None] - utility[:, None, :]))


CLAIMS = (
    Claim("F7", "HyPO", "the KL is bounded where the data are not", "Song et al. 2024, Thm. 4.2", bounded, seconds=8),
    Claim("F12", "RSO", "accepted answers are the optimal policy's", "Liu et al. 2023, Thm. 1", rejected),
)
