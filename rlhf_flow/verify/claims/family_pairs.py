"""Claims of methods on pairs, each of which DPO on the same data would fail."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import numpy as np
import torch

from rlhf_flow.games.equilibrium import gap, tilted
from rlhf_flow.games.game import Board, bradley_terry
from rlhf_flow.games.scorer import RewardScorer
from rlhf_flow.games.solvers import Descent
from rlhf_flow.objective.copg import CoPG
from rlhf_flow.objective.dpo import DPO
from rlhf_flow.objective.f_dpo import DIVERGENCES, FDPO
from rlhf_flow.objective.gpo import GPO
from rlhf_flow.objective.inpo import INPO
from rlhf_flow.objective.mnpo import MNPO
from rlhf_flow.objective.orpo import ORPO
from rlhf_flow.objective.rdpo import RobustDPO
from rlhf_flow.objective.rebel import REBEL
from rlhf_flow.objective.simpo import SimPO
from rlhf_flow.objective.sppo import SPPO
from rlhf_flow.objective.tgdpo import TGDPO
from rlhf_flow.protocols import Objective
from rlhf_flow.sampler.policy import PolicySampler
from rlhf_flow.schedule import EveryK, Extrapolated
from rlhf_flow.selector.all_pairs import AllPairs
from rlhf_flow.types import SamplingParams
from rlhf_flow.verify.claim import Claim, Finding, above, below, between
from rlhf_flow.verify.claims.recipes import shipped
from rlhf_flow.verify.games import CYCLE
from rlhf_flow.verify.pairs import at_the_anchors, draw_pairs, gradients, tensors
from rlhf_flow.verify.play import Played, play

REWARDS = np.array([0.0, 0.5, 1.2])
REFERENCE = np.array([0.6, 0.3, 0.1])
GAME = bradley_terry(REWARDS, REFERENCE)
BY_REWARD = AllPairs(label="soft", worth="utility")


def rewarded(objective: Objective, rounds: int, rewards: np.ndarray = REWARDS, **parts: object) -> Played:
    """Rounds of a game whose scorer gives rewards."""
    game = bradley_terry(rewards, REFERENCE)
    scorer = RewardScorer(Board((game,)), [rewards])
    return play(game, objective=objective, rounds=rounds, judge=scorer, **{"selector": BY_REWARD} | parts)  # type: ignore[arg-type]


def natural_gradient(seed: int) -> Iterator[Finding]:
    """Each round multiplies the policy by exp(eta r): rewards add up, with no pull to the reference."""
    eta, rounds = 0.7, 5
    last = rewarded(REBEL(eta), rounds).of()[-1]
    far = np.abs(last - tilted(REFERENCE, rounds * eta * REWARDS)).max()
    yield below(f"distance to ref exp({rounds} eta r) after {rounds} rounds", far, 1e-8)
    scaled = rewarded(REBEL(eta), 1, 3 * REWARDS).of()[-1]
    far = np.abs(scaled - tilted(REFERENCE, 3 * eta * REWARDS)).max()
    yield below("distance with three times the rewards: their size counts, not only their order", far, 1e-8)


def any_sampler(seed: int) -> Iterator[Finding]:
    """Pairs of the policy and of a colder one have the same optimum."""
    beta, optima = 0.5, []
    for temperature in (1.0, 0.4):
        sampler = PolicySampler(draws=[SamplingParams("policy", n=2, temperature=temperature)])
        optima.append(rewarded(CoPG(beta), 1, sampler=sampler).of()[-1])
    best = tilted(REFERENCE, REWARDS / beta)
    yield below("distance to ref exp(r / beta), pairs of the policy", np.abs(optima[0] - best).max(), 1e-8)
    yield below("pairs of the policy at temperature 0.4", np.abs(optima[1] - best).max(), 1e-8)


def divergences(seed: int) -> Iterator[Finding]:
    """beta (f'(u_i) - f'(u_j)) = r_i - r_j at the optimum, u = pi / pi_ref; the reverse KL is DPO."""
    beta, optima = 1.0, {}
    for kind in DIVERGENCES:
        policy = play(GAME, objective=FDPO(beta, kind, 0.5), rounds=1, seed=seed).of()[-1]
        slopes = FDPO(beta, kind, 0.5).slope(torch.from_numpy(np.log(policy / REFERENCE))).numpy()
        error = beta * (slopes - slopes[0]) - (REWARDS - REWARDS[0])
        optima[kind] = policy
        yield below(f"largest error of the implicit rewards, {kind}", np.abs(error).max(), 1e-8)
    dpo = play(GAME, objective=DPO(beta), rounds=1, seed=seed).of()[-1]
    yield below("distance of the reverse KL to DPO", np.abs(optima["reverse_kl"] - dpo).max(), 1e-10)
    yield above("distance of the forward KL to DPO", np.abs(optima["forward_kl"] - dpo).max(), 0.01)


def unbiased(seed: int) -> Iterator[Finding]:
    """The mean over labels that are wrong with a probability is the loss of the right ones."""
    noise, pairs = 0.2, draw_pairs(seed, count=32)
    for name, objective, rule in (("robust DPO", RobustDPO(0.5, noise), below), ("DPO", DPO(0.5), above)):
        right, wrong = (
            objective.loss(tensors([replace(pair, p=p) for pair in pairs], objective)).values for p in (1.0, 0.0)
        )
        clean = DPO(0.5).loss(tensors([replace(pair, p=1.0) for pair in pairs], DPO(0.5))).values
        error = ((1 - noise) * right + noise * wrong - clean).abs().max()
        yield rule(
            f"largest error of the mean loss, {name}, labels wrong with 0.2", error, 1e-12 if rule is below else 0.1
        )


def odds_ratio(seed: int) -> Iterator[Finding]:
    """Where both answers are the same, nothing is preferred: ORPO imitates them as supervised training does."""
    for name, objective, rule in (("ORPO", ORPO(0.2), above), ("DPO", DPO(0.5), below)):
        pulls = []
        for pair in draw_pairs(seed, count=16):
            same = {policy: {**sides, "second": sides["first"]} for policy, sides in pair.tokens.items()}
            _, (slopes,) = gradients(objective, tensors([replace(pair, tokens=same, p=1.0)], objective))
            pulls.append(-sum(slopes["first"]) - sum(slopes["second"]))
        yield rule(
            f"{name}: pull towards an answer that is on both sides, in likelihoods",
            min(pulls) if rule is above else max(pulls),
            0.999 if rule is above else 1e-9,
        )
    ratio = []
    for pair in draw_pairs(seed, count=32):
        winner = replace(pair, p=1.0)
        plain, whole = (
            {s: sum(g) for s, g in gradients(o, tensors([winner], o))[1][0].items()} for o in (ORPO(1e-12), ORPO(1.0))
        )
        ratio.append(plain["second"] - whole["second"])
    yield below("largest pull of the loser upwards by the odds ratio", max(ratio), 1e-12)


def length(seed: int) -> Iterator[Finding]:
    """The reward is that of a token: an answer said twice has the same one, and so has the margin."""
    drawn = draw_pairs(seed, count=1)[0]
    pair = replace(drawn, tokens={p: {s: logps[:2] for s, logps in sides.items()} for p, sides in drawn.tokens.items()})
    twice = replace(
        pair, tokens={p: {s: [*logps, *logps] for s, logps in sides.items()} for p, sides in pair.tokens.items()}
    )
    for name, objective, rule in (("SimPO", SimPO(), below), ("DPO", DPO(), above)):
        once, again = (objective.loss(tensors([each], objective)).metrics["margin"] for each in (pair, twice))
        yield rule(f"{name}: change of the margin if both answers are said twice", (once - again).abs().max(), 1e-9)


def scores(seed: int) -> Iterator[Finding]:
    """With win rates less a half as scores, GPO is SPPO; Bradley-Terry scores are unbounded where win rates are not."""
    eta, pairs = 3.0, draw_pairs(seed, count=32)
    centred = [replace(pair, worth=(pair.worth[0] - 0.5, pair.worth[1] - 0.5)) for pair in pairs]
    sppo, gpo = SPPO(eta), GPO(1 / eta)
    far = (sppo.loss(tensors(pairs, sppo)).values - gpo.loss(tensors(centred, gpo)).values).abs().max()
    yield below("difference of the losses", far, 1e-12)
    strong = bradley_terry([0.0, 6.0], [0.5, 0.5])
    odds = AllPairs(label="soft", worth="log_odds")
    moved = [
        np.log(play(strong, objective=objective, rounds=1, selector=selector).of()[-1][1] * 2)
        for objective, selector in ((GPO(1.0), odds), (SPPO(1.0), AllPairs(label="soft")))
    ]
    yield above("GPO: how much more it moves to an answer that wins by 6 nats than SPPO", moved[0] - moved[1], 0.1)
    apart = [_apart(each) for each in (0.2, 0.1)]
    yield below(
        "Bradley-Terry scores 0.1 nats apart: share by which a step of SPPO, eta 4 / beta, is another", apart[1], 1e-3
    )
    yield between("by how much it shrinks if the scores are half as far apart", apart[0] / apart[1], 3.9, 4.1)


def _apart(worth: float) -> float:
    """The difference of the steps of GPO and SPPO over GPO's. In the limit P - 1/2 is a quarter of the score."""
    game = bradley_terry([0.0, worth], [0.5, 0.5])
    gpo = play(game, objective=GPO(1.0), rounds=1, selector=AllPairs(label="soft", worth="log_odds")).of()[-1]
    sppo = play(game, objective=SPPO(4.0), rounds=1, selector=AllPairs(label="soft")).of()[-1]
    moved = [float(np.log(each[1] / each[0])) for each in (gpo, sppo)]
    return abs(moved[0] - moved[1]) / abs(moved[0])


def convergent(seed: int) -> Iterator[Finding]:
    config = shipped("comal")
    played = play(CYCLE, objective=config.objective, schedule=config.schedule, rounds=200, seed=seed)
    fixed = play(CYCLE, objective=config.objective, rounds=200, seed=seed)
    yield below("gap without a regulariser after 200 rounds", gap(CYCLE, played.of()[-1], 0.0), 0.005)
    yield above("of INPO with a reference that stays", gap(CYCLE, fixed.of()[-1], 0.0), 0.02)


def one_opponent(seed: int) -> Iterator[Finding]:
    pairs = draw_pairs(seed, count=32)
    mnpo, inpo = MNPO(0.3, 0.1, [1.0]), INPO(0.3, 0.1)
    far = (mnpo.loss(tensors(pairs, mnpo)).values - inpo.loss(tensors(pairs, inpo)).values).detach().abs().max()
    yield below("difference of its loss to INPO's, one opponent", far, 1e-12)


def accelerated(seed: int) -> Iterator[Finding]:
    """A round adds r / beta to the log-odds; with momentum, up to 1 / (1 - alpha) times as much."""
    beta, alpha, rounds = 2.0, 0.4, 8
    plain = play(GAME, objective=DPO(beta), schedule=EveryK(1), rounds=rounds, seed=seed).of()[-1]
    ahead = play(GAME, objective=DPO(beta), schedule=Extrapolated(alpha), rounds=rounds, seed=seed).of()
    change, total = 0.0, 0.0  # of a round in units of r / beta, and of all
    for _ in range(rounds):
        change = 1 + alpha * change
        total += change
    expected = tilted(REFERENCE, (total + alpha * change) * REWARDS / beta)
    yield below("distance to its closed form after 8 rounds", np.abs(ahead[-1] - expected).max(), 1e-8)
    yield below(
        "distance of plain rounds to theirs", np.abs(plain - tilted(REFERENCE, rounds * REWARDS / beta)).max(), 1e-8
    )
    yield above("reward over that of plain rounds", (ahead[-1] - plain) @ REWARDS, 0.005)


def strengths(seed: int) -> Iterator[Finding]:
    """Soft labels calibrate the implicit reward; the labels of the winner alone have no optimum."""
    beta = 0.5
    policy = play(GAME, objective=DPO(beta), rounds=1, seed=seed).of()[-1]
    implicit = beta * np.log(policy / REFERENCE)
    yield below("error of the implicit reward", np.abs(implicit - implicit[0] - REWARDS).max(), 1e-8)
    hard = play(
        GAME, objective=DPO(beta), selector=AllPairs(label="hard"), method=Descent(1.0, 3000), rounds=1, seed=seed
    )
    implicit = beta * np.log(hard.of()[-1] / REFERENCE)
    yield above("the same with hard labels", np.abs(implicit - implicit[0] - REWARDS).max(), 0.5)


def guidance(seed: int) -> Iterator[Finding]:
    """At the reference, a token's pull grows with its reward in the winner, and falls with it in the loser."""
    pairs = [at_the_anchors(pair, p=1.0, worth=(0.5, 0.5)) for pair in draw_pairs(seed, count=16)]
    rng = np.random.default_rng(seed)
    for alpha, rule in ((1.0, above), (0.0, below)):
        spread = 0.0
        for pair in pairs:
            reward = {
                s: (np.array(logps) + rng.normal(size=len(logps))).tolist()
                for s, logps in pair.tokens["reference"].items()
            }
            guided = replace(pair, tokens={**pair.tokens, "reward_policy": reward})
            objective = TGDPO(0.5, alpha)
            _, (slopes,) = gradients(objective, tensors([guided], objective))
            for side in ("first", "second"):
                pull = -np.array(slopes[side])
                if len(pull) > 1 and alpha:
                    seen = np.array(reward[side]) - np.array(pair.tokens["reference"][side])
                    spread = max(spread, float(np.corrcoef(pull, seen)[0, 1])) if side == "first" else spread
                elif len(pull) > 1:
                    spread = max(spread, float(np.ptp(pull)))
        what = (
            "correlation of a winner's token's pull with its reward"
            if alpha
            else "alpha=0, as DPO: difference of pulls"
        )
        yield rule(what, spread, 0.999 if alpha else 1e-12)


CLAIMS = (
    Claim("F1", "REBEL", "a round is a natural policy gradient step", "Gao et al. 2024, Thm. 1", natural_gradient),
    Claim("F2", "CoPG", "its optimum does not depend on the sampler", "Flet-Berliac et al. 2024, Prop. 1", any_sampler),
    Claim("F3", "f-DPO", "implicit rewards are those of the divergence", "Wang et al. 2023, Thm. 1", divergences),
    Claim("F4", "robust DPO", "its loss is unbiased under wrong labels", "Chowdhury et al. 2024, Lemma 3.1", unbiased),
    Claim("F5", "ORPO", "the winner becomes likelier without a reference", "Hong et al. 2024, sec. 4.3", odds_ratio),
    Claim("F6", "SimPO", "its reward is that of a token", "Meng et al. 2024, sec. 2.2", length),
    Claim(
        "F8",
        "GPO",
        "with scores P - 1/2 it is SPPO, with Bradley-Terry scores in the limit",
        "Zhang et al. 2024, arXiv:2410.02197, sec. 5",
        scores,
    ),
    Claim(
        "F9", "COMAL", "it converges to the unregularised Nash policy", "Liu et al. 2024, Thm. 1", convergent, seconds=4
    ),
    Claim("F10", "MNPO", "with one opponent it is INPO", "Wu et al. 2025, sec. 3", one_opponent, seconds=4),
    Claim("F11", "OSP", "soft labels calibrate the implicit reward", "Zhai et al. 2024", strengths, seconds=5),
    Claim("F23", "APO", "momentum multiplies the steps by 1 / (1 - alpha)", "He et al. 2024, Thm. 4.2", accelerated),
    Claim("F13", "TGDPO", "tokens with a high reward pull more", "Zhu et al. 2025, sec. 3", guidance),
)
