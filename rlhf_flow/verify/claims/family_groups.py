"""Claims of methods on groups: policy gradients, mirror descent, unpaired and listwise losses."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace

import numpy as np
import torch
from torch import Tensor

from rlhf_flow.games.equilibrium import gap, kl, tilted
from rlhf_flow.games.game import Board, Game, bradley_terry
from rlhf_flow.games.scorer import RewardScorer
from rlhf_flow.games.solvers import Descent, Fit, Method
from rlhf_flow.objective.a_lol import ALoL
from rlhf_flow.objective.asymre import AsymRE
from rlhf_flow.objective.grpo import GRPO
from rlhf_flow.objective.kto import KTO
from rlhf_flow.objective.opmd import OPMD
from rlhf_flow.objective.pro import PRO
from rlhf_flow.objective.rloo import RLOO
from rlhf_flow.objective.trpa import TRPA
from rlhf_flow.protocols import Objective, Sampler
from rlhf_flow.sampler.draws import DrawsSampler
from rlhf_flow.sampler.source import Source
from rlhf_flow.selector.group import Group
from rlhf_flow.types import GroupLogps, TokenLogps
from rlhf_flow.verify.claim import Claim, Finding, above, below
from rlhf_flow.verify.claims.recipes import shipped
from rlhf_flow.verify.games import CYCLE, ROCK_PAPER_SCISSORS
from rlhf_flow.verify.groups import OneGroup, draw_groups, tensors
from rlhf_flow.verify.play import Played, play
from rlhf_flow.verify.setting import SELF_PLAY

REWARDS = np.array([0.0, 0.5, 1.2])
REFERENCE = np.array([0.6, 0.3, 0.1])
FROM_REFERENCE = DrawsSampler(draws=[Source("reference", n=2, policy="reference")])


def trained(
    objective: Objective,
    method: Method,
    rounds: int,
    *,
    rewards: np.ndarray = REWARDS,
    sampler: Sampler = SELF_PLAY,
    worth: str = "utility",
    game: Game | None = None,
) -> Played:
    """Rounds of a game with rewards, of which every answer is enumerated."""
    board = game or bradley_terry(rewards, REFERENCE)
    judge = RewardScorer(Board((board,)), [rewards]) if game is None else None
    parts = {"sampler": sampler, "selector": Group(worth=worth), "method": method, "judge": judge}
    return play(board, objective=objective, rounds=rounds, **parts)  # type: ignore[arg-type]


def pulls(objective: Objective, groups: Sequence[OneGroup]) -> tuple[GroupLogps, Tensor]:
    """What a descent step does to the log-prob of each answer [A], for a policy that sampled them."""
    same = [replace(one, tokens=dict.fromkeys(one.tokens, one.tokens["previous"])) for one in groups]
    given = tensors(same, objective)
    (gradient,) = torch.autograd.grad(objective.loss(given).values.sum(), given.current.values)
    first = gradient[:, 0]  # of every token of an answer the same, but for means over tokens
    return given, -first


def pairs_of_rewards(seed: int) -> Iterator[Finding]:
    """k (k - 1) times its gradient is the sum over pairs i < j of (r_i - r_j) (g_i - g_j)."""
    groups = draw_groups(seed)
    _, pulled = pulls(RLOO(beta=0.0, clip=None), groups)
    far, at = 0.0, 0
    for group in groups:
        k, rewards = group.size, group.worth
        for i in range(k):
            by_pairs = sum(rewards[i] - rewards[j] for j in range(k) if j != i) / (k * (k - 1))
            far = max(far, abs(float(pulled[at + i]) - by_pairs))
        at += k
    yield below("largest difference of an answer's pull to that of all its pairs", far, 1e-12)
    best = tilted(REFERENCE, REWARDS / 0.5)
    last = trained(RLOO(beta=0.5, clip=None), Descent(lr=1.0), 400).of()[-1]
    yield below("distance to ref exp(r / beta) after 400 exact steps", np.abs(last - best).max(), 1e-4)


def standardised(seed: int) -> Iterator[Finding]:
    """Rewards in any unit, from any zero, give the same step."""
    groups = draw_groups(seed)
    moved = [replace(one, worth=[7 + 30 * each for each in one.worth]) for one in groups]
    for name, objective, rule in (("GRPO", GRPO(beta=0.0, clip=None), below), ("RLOO", RLOO(0.0, None), above)):
        far = (pulls(objective, groups)[1] - pulls(objective, moved)[1]).abs().max()
        yield rule(f"{name}: change of the step with rewards 7 + 30 r", far, 1e-4)


def mirror(seed: int) -> Iterator[Finding]:
    """On enumerated answers a small step is that of pi_t exp(r / tau), and the answers may be stale."""
    tau = 20.0
    last = trained(OPMD(tau), Fit(), 1).of()[-1]
    yield below(
        "distance of a round to ref exp(r / tau), tau = 20", np.abs(last - tilted(REFERENCE, REWARDS / tau)).max(), 1e-3
    )
    own = trained(OPMD(2.0), Fit(), 40).of()[-1] @ REWARDS
    yield above("reward after 40 rounds on the policy's own answers", own, 1.1)
    stale = trained(OPMD(2.0), Fit(), 40, sampler=FROM_REFERENCE).of() @ REWARDS
    yield above("smallest gain of a round on answers of the start", np.diff(stale).min(), 0.0)


def baseline(seed: int) -> Iterator[Finding]:
    """On answers of mu and a baseline V below mu's value, it ends at the positive part of mu (r - V), normalised."""
    value = float(REFERENCE @ REWARDS)

    def last(shift: float) -> np.ndarray:
        method = Descent(lr=2.0, steps=20)
        policy: np.ndarray = trained(AsymRE(shift), method, 200, sampler=FROM_REFERENCE).of()[-1]
        return policy

    limit = np.clip(REFERENCE * (REWARDS - value + 0.3), 0, None)
    yield below("distance to that limit, V 0.3 below", np.abs(last(-0.3) - limit / limit.sum()).max(), 0.01)
    yield above("its second largest probability", np.sort(limit / limit.sum())[-2], 0.1)
    yield above("largest probability, V 0.3 above: it collapses to an answer", last(0.3).max(), 0.99)


def self_play(seed: int) -> Iterator[Finding]:
    """Without a KL, win rates as rewards: the policies go round, and their average is the Nash policy of this game."""
    config = shipped("spo", "objective.beta=0.0")
    played = trained(
        config.objective, Descent(lr=1.0), 1500, worth=config.selector.worth, game=ROCK_PAPER_SCISSORS
    ).of()
    average, last = (gap(ROCK_PAPER_SCISSORS, policy, 0.0) for policy in (played.mean(0), played[-1]))
    yield below("unregularised gap of the average policy", average, 0.05)
    yield above(
        "largest gap of the last 500 policies", max(gap(ROCK_PAPER_SCISSORS, one, 0.0) for one in played[-500:]), 0.2
    )
    yield above("of the last policy, over that of the average", last / average, 2.0)


def reference_point(seed: int) -> Iterator[Finding]:
    """z is the KL to the reference; an answer far above it has no more pull: losses saturate on both sides."""
    objective = KTO(beta=0.5)
    policy = np.array([0.2, 0.5, 0.3])
    logps = torch.from_numpy(np.log(policy))[:, None].requires_grad_()
    mask = torch.ones(3, 1, dtype=torch.bool)
    groups = GroupLogps(
        TokenLogps(logps, mask),
        {"reference": TokenLogps(torch.from_numpy(np.log(CYCLE.reference))[:, None], mask)},
        group=torch.zeros(3, dtype=torch.int64),
        worth=torch.tensor([0.0, 1.0, 0.5], dtype=torch.float64),
        weight=torch.ones(1, dtype=torch.float64),
        mass=torch.from_numpy(policy),
        enumerated=True,
    )
    z = objective.loss(groups).metrics["z"]
    yield below(
        "distance of z to KL(pi || pi_ref), all answers enumerated", abs(float(z) - kl(policy, CYCLE.reference)), 1e-12
    )
    last = trained(KTO(beta=0.5), Descent(lr=5.0), 600).of()[-1]
    yield above("probability of the best answer after 600 steps", last[2], 0.8)
    yield above("reward of the policy over the start's", (last - REFERENCE) @ REWARDS, 0.5)


def better_than_the_mean(seed: int) -> Iterator[Finding]:
    """Answers below the mean have no pull; the reward rises on answers of the start alone."""
    groups = draw_groups(seed)
    given, pulled = pulls(ALoL(), groups)
    worse = given.worth < given.mean(given.worth)[given.group]
    yield below("largest pull on an answer below the mean", pulled[worse].abs().max(), 1e-12)
    yield above("least pull on any answer", pulled.min(), -1e-12)
    value = trained(ALoL(), Descent(lr=1.0), 300, sampler=FROM_REFERENCE).of() @ REWARDS
    yield above("reward after 300 steps, over the start's", value[-1] - value[0], 0.5)


def ranking(seed: int) -> Iterator[Finding]:
    """With two answers it is a pairwise loss of mean log-probs, at the temperature of their rewards."""
    far = 0.0
    for group in draw_groups(seed, count=40):
        two = OneGroup({policy: lines[:2] for policy, lines in group.tokens.items()}, group.worth[:2])
        given = tensors([two], PRO(nll=0.0))
        s = given.current.mean.detach()
        expected = torch.nn.functional.softplus(-(two.worth[0] - two.worth[1]) * (s[0] - s[1]))
        far = max(far, abs(float(PRO(nll=0.0).loss(given).values.detach()[0]) - float(expected)))
    yield below("two answers: difference to -log sigma((r_1 - r_2) (s_1 - s_2))", far, 1e-9)
    value = trained(PRO(nll=0.0), Descent(lr=0.5, steps=50), 10).of()
    order = np.argsort(value[-1])
    yield below("answers that are not in the order of their rewards", float((order != np.arange(3)).sum()), 0.5)


def levels(seed: int) -> Iterator[Finding]:
    """Only answers at different levels pull: those of one level keep their odds."""
    objective, rewards = TRPA(beta=1.0, kl=0.0), np.array([0.5, 0.5, 1.0])
    policies = trained(objective, Descent(lr=1.0), 400, rewards=rewards).of()
    moved = np.log(policies[1] / policies[0])
    yield below("change of the odds of two answers at one level, first step", abs(moved[0] - moved[1]), 1e-12)
    yield above("probability of the answer at the highest level after 400 steps", policies[-1][2], 0.7)
    groups = draw_groups(seed, levels=True)
    _, pulled = pulls(objective, groups)
    flat, at = 0.0, 0
    for group in groups:
        if len(set(group.worth)) == 1:
            flat = max(flat, float(pulled[at : at + group.size].abs().max()))
        at += group.size
    yield below("largest pull in a group of one level", flat, 1e-12)


CLAIMS = (
    Claim("F14", "RLOO", "it is all pairs of rewards", "Ahmadian et al. 2024, sec. 3", pairs_of_rewards, seconds=5),
    Claim("F15", "GRPO", "the unit and the zero of rewards do not count", "Shao et al. 2024, sec. 4.1", standardised),
    Claim("F16", "OPMD", "a round is a mirror descent step, on any answers", "Kimi k1.5, sec. 2.3", mirror, seconds=3),
    Claim(
        "F17",
        "AsymRE",
        "a baseline below the value keeps the policy spread",
        "Arnal et al. 2025, Thm. 1",
        baseline,
        seconds=35,
    ),
    Claim(
        "F18",
        "SPO",
        "the average of self-play is the Nash policy",
        "Swamy et al. 2024, Thm. 3.4",
        self_play,
        seconds=12,
    ),
    Claim("F19", "KTO", "its reference point is the KL", "Ethayarajh et al. 2024, eq. 8", reference_point, seconds=5),
    Claim(
        "F20",
        "A-LoL",
        "it learns from answers above the mean alone",
        "Baheti et al. 2023, sec. 3",
        better_than_the_mean,
        seconds=3,
    ),
    Claim("F21", "PRO", "with two answers it is a pairwise loss", "Song et al. 2023, eq. 5", ranking, seconds=3),
    Claim("F22", "TRPA", "only answers at different levels pull", "Su et al. 2025, sec. 3", levels, seconds=2),
)
