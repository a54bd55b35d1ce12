"""Claims of methods that learn from more than the policy's own answers: given, continued, or of other policies."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace

import numpy as np
import torch
from torch import Tensor

from rlhf_flow.games.game import bradley_terry
from rlhf_flow.games.solvers import Descent
from rlhf_flow.objective.chord import CHORD
from rlhf_flow.objective.dpo import DPO
from rlhf_flow.objective.grpo import GRPO
from rlhf_flow.protocols import Sampler, Schedule, Selector
from rlhf_flow.sampler.draws import DrawsSampler
from rlhf_flow.sampler.source import Source
from rlhf_flow.schedule import EveryK
from rlhf_flow.selector.best_and_worst import BestAndWorst
from rlhf_flow.types import (
    Candidate,
    Message,
    Mixture,
    PairLogps,
    Policy,
    Prompt,
    Response,
    Rollouts,
    SamplingParams,
    Sides,
    TokenLogps,
)
from rlhf_flow.verify.claim import Claim, Finding, above, below
from rlhf_flow.verify.claims.recipes import shipped
from rlhf_flow.verify.groups import draw_groups, tensors
from rlhf_flow.verify.play import play


def resets(seed: int) -> Iterator[Finding]:
    """A policy that is right about each of 12 tokens half of the time: groups of four answers whose rewards differ."""
    gold, groups = tuple(range(2, 14)), 400
    prompts = [
        Prompt(f"q{b}", (Message("user", "?"),), (0,), candidates={"chosen": Candidate("", gold)})
        for b in range(groups)
    ]
    (resetting,) = shipped("dr_po").sampler.draws
    for draw, what, rule, bound in (
        (resetting, "with resets", above, 0.15),
        (replace(resetting, continues=None), "from the prompt", below, 0.02),
    ):
        sampler = DrawsSampler(draws=[draw])
        policy = {"policy": Policy("policy", 0, "", weights=None)}  # type: ignore[arg-type]
        drawn = Rollouts.gathered(
            prompts,
            sampler.stream(_Coin(gold), prompts, policy, round=1, seed=seed),
            1,  # type: ignore[arg-type]
        )
        solved = [
            {tuple(one.context if one.context is not None else (0,))[1:] + tuple(one.tokens) == gold for one in group}
            for group in drawn.responses
        ]
        yield rule(f"share of groups with a gradient, {what}", np.mean([len(each) == 2 for each in solved]), bound)


class _Coin:
    """An engine whose every token is the gold answer's or the end, with equal probability."""

    def __init__(self, gold: Sequence[int]) -> None:
        self.gold = gold

    def generate(
        self, prompts: Sequence[Prompt], policy: Policy | Mixture, draw: SamplingParams, *, round: int, seed: int
    ) -> Rollouts:
        random = np.random.default_rng(seed)

        def answer(prompt: Prompt, k: int) -> Response:
            left = self.gold[len(prompt.begun or ()) :]
            right = int(np.argmin([*(random.random(len(left)) < 0.5), False]))  # tokens before the first wrong one
            tokens = np.array([*left[:right], *([1] if right < len(left) else [])], np.int32)
            context = None if prompt.begun is None else np.array(prompt.context, np.int32)
            return Response(f"{prompt.id}/{k}", tokens, "", None, False, draw, seed, "", context=context)

        responses = tuple(tuple(answer(prompt, k) for k in range(draw.n)) for prompt in prompts)
        return Rollouts(round, tuple(prompts), responses)

    def close(self) -> None: ...


def expert(seed: int) -> Iterator[Finding]:
    """Where no answer of a group is better than another, GRPO stands still and the expert's answer teaches."""
    groups = [replace(one, worth=[0.0] * one.size) for one in draw_groups(seed)]
    base = GRPO(beta=0.0, clip=None)
    given = tensors(groups, base)
    logps = torch.log(torch.tensor([[0.5, 1e-6, 1 - 1e-6]] * len(groups), dtype=torch.float64)).requires_grad_()
    given = replace(given, extra=TokenLogps(logps, torch.ones_like(logps, dtype=torch.bool)))
    (still,) = torch.autograd.grad(base.loss(given).values.sum(), given.current.values)
    yield below("largest pull of GRPO", still.abs().max(), 1e-12)
    for by_token in (False, True):
        (slope,) = torch.autograd.grad(CHORD(base, mu=0.5, by_token=by_token).loss(given).values.sum(), logps)
        yield above(f"pull to a token of the expert that is even odds, by_token={by_token}", -slope[0, 0], 0.04)
        rule, bound = (below, 1e-6) if by_token else (above, 0.1)
        yield rule("to one of probability 1e-6, and to a certain one", (-slope[0, 1:]).max(), bound)


def aligned(seed: int) -> Iterator[Finding]:
    """Near the true reward, its pairs make DPO's gradient that of reward - beta KL; the policy's own pairs do not."""
    config, size, worst = (
        shipped("pilaf", "objective.beta=1.0"),
        5,
        {"its pairs": 1.0, "pairs of the policy": 1.0, "its shipped shares": 1.0},
    )
    beta = float(config.objective.beta)
    weights = {draw.name: draw.weight for draw in config.sampler.draws}
    random = np.random.default_rng(seed)
    for _ in range(10):
        reference, theta = np.log(random.dirichlet(np.full(size, 5.0))), 2 * random.normal(size=size)
        logits = torch.tensor(reference + theta, requires_grad=True)
        logps = logits.log_softmax(-1)
        pi, ratio = logps.detach().exp().numpy(), logps.detach().numpy() - reference
        rewards = beta * ratio + 0.01 * random.normal(size=size)
        (ideal,) = torch.autograd.grad(
            (logps.exp() * torch.from_numpy(rewards - beta * ratio)).sum(), logits, retain_graph=True
        )
        own = np.outer(pi, pi)
        masses = {name: pi ** (1 - w) * np.exp(reference * w) for name, w in weights.items() if w is not None}
        sides = np.outer(masses["ahead"], masses["behind"])  # Z+ Z- times their product
        for name, mass in (
            ("its pairs", 2 * own + sides + sides.T),
            ("its shipped shares", 2 * own + (sides + sides.T) / sides.sum()),
            ("pairs of the policy", own),
        ):
            (found,) = torch.autograd.grad(_dpo(beta, logps, reference, rewards, mass), logits, retain_graph=True)
            worst[name] = min(worst[name], float(torch.cosine_similarity(-found, ideal, dim=0)))
    yield above("smallest cosine to the ideal gradient, pairs in the shares of Z+ Z-", worst["its pairs"], 0.999)
    yield above(
        "the same in equal shares, as the recipe draws them", worst["its shipped shares"], worst["pairs of the policy"]
    )
    yield below("the same of pairs of the policy", worst["pairs of the policy"], 0.99)


def _dpo(beta: float, logps: Tensor, reference: np.ndarray, rewards: np.ndarray, mass: np.ndarray) -> Tensor:
    """The expected loss over pairs of answers with these masses [K, K]."""
    size = len(rewards)
    i, j = (torch.arange(size).repeat_interleave(size), torch.arange(size).repeat(size))
    known, whole = torch.from_numpy(reference), torch.ones(size * size, 1, dtype=torch.bool)
    current = Sides(*(TokenLogps(logps[each][:, None], whole) for each in (i, j)))
    anchor = Sides(*(TokenLogps(known[each][:, None], whole) for each in (i, j)))
    p = torch.from_numpy(rewards[:, None] - rewards[None]).sigmoid().flatten()
    pairs = PairLogps(current, {"reference": anchor}, p, torch.from_numpy(mass).flatten())
    return (pairs.weight * DPO(beta).loss(pairs).values).sum()


def apart(seed: int) -> Iterator[Finding]:
    """By how much reward the chosen answer is above the rejected one, of four each, once the policy has learned."""
    rewards, config = np.linspace(0, 3, 6), shipped("temporal")
    game = bradley_terry(rewards, np.ones(6) / 6)

    def policies(rounds: int, sampler: Sampler, selector: Selector, schedule: Schedule) -> np.ndarray:
        parts = {"sampler": sampler, "selector": selector, "schedule": schedule, "method": Descent(lr=2.0, steps=20)}
        return play(game, objective=DPO(0.3), rounds=rounds, exact=False, copies=16, seed=seed, **parts).of()  # type: ignore[arg-type]

    four = DrawsSampler(draws=[Source("policy", n=4)])
    own = policies(4, four, BestAndWorst(), EveryK(1))
    temporal = policies(8, config.sampler, config.selector, config.schedule)
    yield below("best and worst of the policy after 4 rounds", _best(own[-1], rewards) - _worst(own[-1], rewards), 0.5)
    far = _best(temporal[-1], rewards) - _worst(temporal[0], rewards)
    yield above("best of the policy and worst of the start after 4 rounds of two steps", far, 2.0)
    yield above("reward of that policy", temporal[-1] @ rewards, 2.5)


def _best(policy: np.ndarray, rewards: np.ndarray) -> float:
    """The expected reward of the best of four answers; `rewards` ascend."""
    return float(np.diff(np.cumsum(policy) ** 4, prepend=0.0) @ rewards)


def _worst(policy: np.ndarray, rewards: np.ndarray) -> float:
    return -_best(policy[::-1], -rewards[::-1])


CLAIMS = (
    Claim("F26", "DR-PO", "answers that continue a data set's are informative", "Chang et al. 2024, sec. 4", resets),
    Claim("F27", "CHORD", "the expert teaches where samples do not", "Zhang et al. 2025, arXiv:2508.11408", expert),
    Claim("F28", "PILAF", "its pairs align DPO's gradient with the reward's", "Feng et al. 2025, Thm. 4.1", aligned),
    Claim("F29", "temporal", "chosen and rejected stay apart", "Wang et al. 2025, arXiv:2508.06026", apart, seconds=5),
)
