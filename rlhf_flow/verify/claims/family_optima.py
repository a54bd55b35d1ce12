"""Claims about the minimum of a loss, or about where it has a gradient, that DPO's does not share."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from itertools import permutations

import numpy as np
import torch
from torch import Tensor

from rlhf_flow.games.equilibrium import tilted
from rlhf_flow.objective.bradley_terry_mixture import BradleyTerryMixture, probability
from rlhf_flow.objective.dpo import DPO
from rlhf_flow.objective.ofs import OFS
from rlhf_flow.objective.srpo import SRPO
from rlhf_flow.types import GroupLogps, PairLogps, Sides, TokenLogps
from rlhf_flow.verify.claim import Claim, Finding, above, below
from rlhf_flow.verify.games import CYCLE
from rlhf_flow.verify.pairs import draw_pairs, gradients, tensors
from rlhf_flow.verify.play import play


def competition(seed: int) -> Iterator[Finding]:
    """Once a pair is far apart, DPO has no gradient left; the other policy keeps both moving."""
    pairs = []
    for pair in draw_pairs(seed, count=16):
        far = {
            side: [each - 300 * (side == "second") for each in pair.tokens["current"][side]]
            for side in pair.tokens["current"]
        }
        pairs.append(replace(pair, p=1.0, tokens={**pair.tokens, "current": far, "sibling": far}))
    for name, objective, rule in (
        ("DPO", DPO(0.5), below),
        ("the fast policy", OFS(0.5, 0.2), above),
        ("the slow policy", OFS(0.5, 0.2, slow=True), above),
    ):
        _, found = gradients(objective, tensors(pairs, objective))
        pulls = [-slopes["first"][0] for slopes in found]  # of one token of the winner
        yield rule(
            f"{name}: {'smallest' if rule is above else 'largest'} pull where the margin is 150",
            min(pulls) if rule is above else max(pulls),
            0.04 if rule is above else 1e-12,
        )


def reviser(seed: int) -> Iterator[Finding]:
    """The minimum of its loss is the equilibrium pi ~ pi_ref / Z of a policy and the best reviser of its answers.

    Z(y) = sum_k pi_ref(k) exp(P(k > y) / beta). It does not depend on who wrote the answers.
    """
    beta, size = 0.5, CYCLE.size
    z = CYCLE.reference @ np.exp(CYCLE.wins / beta)  # [K]
    nash = tilted(CYCLE.reference, -np.log(z))
    best = np.stack([tilted(CYCLE.reference, CYCLE.wins[:, y] / beta) for y in range(size)])  # reviser, [shown, K]
    for name, source in (("the reference's", CYCLE.reference), ("other", np.array([0.2, 0.2, 0.6]))):
        policy, revised = _srpo_minimum(beta, source)
        yield below(f"distance of the policy to the equilibrium, {name} answers", np.abs(policy - nash).max(), 1e-5)
        yield below("of the reviser to the best one", np.abs(revised - best).max(), 1e-5)
    dpo = play(CYCLE, objective=DPO(beta), rounds=1, seed=seed).of()[-1]
    yield above("of DPO's policy to the equilibrium", np.abs(dpo - nash).max(), 0.02)


def _srpo_minimum(beta: float, source: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The policy [K] and its reviser [K, K] at the minimum of the expected loss over labelled pairs of `source`."""
    size = len(source)
    table = torch.zeros(1 + size, size, dtype=torch.float64, requires_grad=True)  # the policy, then a reviser by answer
    known = torch.from_numpy(np.log(CYCLE.reference)).expand(1 + size, size)
    pairs = list(permutations(range(size), 2))  # winner, loser
    places = [
        (row, answer)
        for won, lost in pairs
        for row, answer in ((0, won), (0, lost), (1 + lost, won), (1 + lost, lost), (1 + won, won), (1 + won, lost))
    ]
    rows, answers = (torch.tensor(each) for each in zip(*places, strict=True))
    weight = torch.tensor([source[won] * source[lost] * CYCLE.wins[won, lost] for won, lost in pairs])
    mask = torch.ones(len(places), 1, dtype=torch.bool)
    optimizer = torch.optim.LBFGS(
        [table], max_iter=150, tolerance_grad=1e-12, tolerance_change=1e-14, line_search_fn="strong_wolfe"
    )

    def logps() -> Tensor:
        return (known + table).log_softmax(-1)

    def closure() -> Tensor:
        optimizer.zero_grad()
        groups = GroupLogps(
            TokenLogps(logps()[rows, answers][:, None], mask),
            {"reference": TokenLogps(known[rows, answers][:, None], mask)},
            group=torch.arange(len(pairs)).repeat_interleave(6),
            worth=torch.zeros(len(places)),
            weight=weight,
            mass=torch.full((len(places),), 1 / 6),
        )
        loss = (weight * SRPO(beta).loss(groups).values).sum()
        loss.backward()
        return loss

    optimizer.step(closure)  # type: ignore[no-untyped-call]
    found = logps().detach().exp().numpy()
    return found[0], found[1:]


def tastes(seed: int) -> Iterator[Finding]:
    """Two groups of people with opposite tastes: one reward misses their mean, two rewards with weights are it."""
    rewards = np.array([[2.0, 0.0, -1.0, 0.5], [-3.0, 1.0, 0.0, 2.0]])  # [tastes, answers]
    p = sum(share / (1 + np.exp(r[None] - r[:, None])) for share, r in zip((0.6, 0.4), rewards, strict=True))
    assert isinstance(p, np.ndarray)
    for count, rule, bound in ((1, above, 0.05), (2, below, 0.005)):
        yield rule(f"largest error of P, rewards: {count}", _fitted(p, count, seed), bound)


def _fitted(p: np.ndarray, count: int, seed: int) -> float:
    """The largest error of P of `count` rewards at the minimum of the loss over all pairs of answers."""
    size = len(p)
    i, j = (torch.tensor(each) for each in zip(*permutations(range(size), 2), strict=True))
    torch.manual_seed(seed)
    rewards = torch.randn(size, count, dtype=torch.float64, requires_grad=True)
    logits = torch.zeros(count, dtype=torch.float64, requires_grad=True)  # of the router: one prompt
    target, whole = torch.from_numpy(p)[i, j], torch.ones(len(i), 2 * count, dtype=torch.bool)
    optimizer = torch.optim.LBFGS(
        [rewards, logits], max_iter=300, tolerance_grad=1e-10, tolerance_change=1e-14, line_search_fn="strong_wolfe"
    )

    def outputs() -> Tensor:
        return torch.cat([rewards, logits.expand(size, count)], -1)

    def closure() -> Tensor:
        optimizer.zero_grad()
        current = Sides(*(TokenLogps(outputs()[each], whole) for each in (i, j)))
        pairs = PairLogps(current, {}, target, torch.ones(len(i)))
        loss = BradleyTerryMixture(balance=0.0).loss(pairs).values.mean()
        loss.backward()
        return loss

    optimizer.step(closure)  # type: ignore[no-untyped-call]
    with torch.no_grad():
        return float((probability(outputs()[i], outputs()[j]) - target).abs().max())


def ranked(seed: int) -> Iterator[Finding]:
    """A pair is ranked right if and only if its loss <= -log sigma(beta c), c = log pi_ref(y_l) / pi_ref(y_w)."""
    beta = 0.5
    pairs = [replace(pair, p=1.0) for pair in draw_pairs(seed, count=256)]
    loss = DPO(beta).loss(tensors(pairs, DPO(beta)))
    c = torch.tensor([pair.sum("reference", "second") - pair.sum("reference", "first") for pair in pairs])
    right = loss.values <= torch.nn.functional.softplus(-beta * c.double())
    found = loss.metrics["ranking"].bool()
    yield below("pairs where the metric `ranking` says otherwise", (right != found).sum(), 0.5)
    lower = (loss.values < np.log(2)) & ~found
    yield above("pairs with a loss below log 2 that are ranked wrong", lower.sum(), 5)


CLAIMS = (
    Claim("F24", "OFS-DPO", "it moves where DPO's gradient has vanished", "Qi et al. 2024, sec. 3", competition),
    Claim("F25", "SRPO", "its minimum is the equilibrium with the best reviser", "Choi et al. 2024, eq. 6", reviser),
    Claim("F30", "MiCRo", "it fits people of opposite tastes", "Shen et al. 2025, sec. 3", tastes, seconds=2),
    Claim("F31", "DPO", "a low loss is not the right ranking", "Chen et al. 2024, arXiv:2405.19534, Thm. 4.1", ranked),
)
