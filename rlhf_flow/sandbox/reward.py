"""The reward model of the embedded world: Bradley-Terry on noisy gold preferences, so that the proxy is not the gold.

Ouyang et al. 2022, arXiv:2203.02155, eq. 1: all pairs of the answers to one prompt are learned together.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import combinations
from statistics import mean
from typing import TYPE_CHECKING

from rlhf_flow.sandbox.gold import worth
from rlhf_flow.sandbox.noise import prefers
from rlhf_flow.sandbox.policy import adamw, anneal, descend, pad
from rlhf_flow.types import Message

if TYPE_CHECKING:
    from torch import Tensor
    from transformers import LlamaForCausalLM, LlamaForSequenceClassification

CENTRE = 0.01  # weight of the mean squared reward: Bradley-Terry leaves the zero of a reward open


@dataclass(frozen=True)
class Comparison:
    """The answers to one prompt, and what is known of them."""

    rows: tuple[list[int], ...]  # prompt, answer and EOS: what the chat template makes of the finished conversation
    gold: tuple[float, ...]
    preferred: tuple[tuple[int, int], ...]  # (better, worse) as noisy judges say, for every pair


def compare(prompt: str, answers: Sequence[str], rows: Sequence[list[int]], rng: random.Random) -> Comparison:
    """Let noisy judges compare all pairs of different answers."""
    gold = [worth((Message(role="user", content=prompt),), answer, {}).utility for answer in answers]
    pairs = [(i, j) for i, j in combinations(range(len(answers)), 2) if answers[i] != answers[j]]
    preferred = tuple((i, j) if prefers(gold[i], gold[j], rng) else (j, i) for i, j in pairs)
    return Comparison(rows=tuple(rows), gold=tuple(gold), preferred=preferred)


def spoil(answer: str, rng: random.Random) -> str:
    """What goes wrong with answers when a policy goes astray: cut, scrambled, or stuck on a phrase."""
    words = answer.split()
    way = rng.randrange(5)
    at = rng.randrange(len(words))
    if way == 0:
        return " ".join(words[: max(1, at)])
    if way == 1:
        other = rng.randrange(len(words))
        words[at], words[other] = words[other], words[at]
        return " ".join(words)
    if way == 2:
        return " ".join(words[:at] + words[at + 1 :])
    if way == 3:
        length = rng.randint(1, 3)
        return " ".join(words[:at] + words[at : at + length] * rng.randint(2, 5) + words[at + length :])
    sentences = answer.replace("! ", "!\n").replace(". ", ".\n").split("\n")
    return " ".join([rng.choice(sentences)] * rng.randint(2, 4))


def train_reward_model(
    policy: LlamaForCausalLM,
    comparisons: Sequence[Comparison],
    *,
    batch: int,
    lr: float,
    seed: int,
    report: Callable[[str], None],
) -> LlamaForSequenceClassification:
    """Fit r(prompt, answer) in one pass, starting at the policy's weights.

    Reports the loss in nats a pair and the share of noisy labels that it agrees with.
    """
    import torch

    model = reward_head(policy, seed=seed)
    optimizer = adamw(model, lr)
    order = random.Random(seed).sample(comparisons, len(comparisons))
    steps = len(order) // batch
    losses: list[float] = []
    hits: list[float] = []
    model.train()
    for step in range(steps):
        rewards, better, worse = _judge(model, order[step * batch : (step + 1) * batch])
        margin = rewards[better] - rewards[worse]  # [pairs]
        loss = -torch.nn.functional.logsigmoid(margin).mean() + CENTRE * rewards.square().mean()
        descend(model, optimizer, loss, lr=lr * anneal(step, steps))
        losses.append(loss.item())
        hits.append((margin > 0).float().mean().item())
        if (step + 1) % max(1, steps // 4) == 0:
            recent = slice(-(steps // 4), None)
            report(
                f"reward model: step {step + 1}/{steps}, loss {mean(losses[recent]):.3f} nats a pair, "
                f"agrees with {mean(hits[recent]):.1%} of its noisy labels"
            )
    model.eval()
    return model


def reward_head(policy: LlamaForCausalLM, *, seed: int) -> LlamaForSequenceClassification:
    """The policy's body under a new head of one output."""
    import torch
    from transformers import LlamaConfig, LlamaForSequenceClassification

    config = LlamaConfig(**{**policy.config.to_dict(), "id2label": {0: "reward"}, "label2id": {"reward": 0}})
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        model = LlamaForSequenceClassification(config)
    model.model.load_state_dict(policy.model.state_dict())
    return model


def agreement(
    model: LlamaForSequenceClassification, comparisons: Sequence[Comparison], *, batch: int
) -> tuple[float, int]:
    """The share of pairs of unequal gold worth that the model orders as gold does, and the number of these pairs."""
    import torch

    hits: list[bool] = []
    with torch.no_grad():
        for at in range(0, len(comparisons), batch):
            chunk = comparisons[at : at + batch]
            rewards = _rewards(model, [row for comparison in chunk for row in comparison.rows]).tolist()
            for comparison in chunk:
                mine, rewards = rewards[: len(comparison.rows)], rewards[len(comparison.rows) :]
                for i, j in combinations(range(len(mine)), 2):
                    if comparison.gold[i] != comparison.gold[j]:
                        hits.append((mine[i] > mine[j]) == (comparison.gold[i] > comparison.gold[j]))
    return sum(hits) / len(hits), len(hits)


def _judge(
    model: LlamaForSequenceClassification, comparisons: Sequence[Comparison]
) -> tuple[Tensor, list[int], list[int]]:
    """Rewards [answers] of a batch, and where in it the better and the worse answer of each pair are."""
    rewards = _rewards(model, [row for comparison in comparisons for row in comparison.rows])
    better: list[int] = []
    worse: list[int] = []
    first = 0
    for comparison in comparisons:
        better.extend(first + winner for winner, _ in comparison.preferred)
        worse.extend(first + loser for _, loser in comparison.preferred)
        first += len(comparison.rows)
    return rewards, better, worse


def _rewards(model: LlamaForSequenceClassification, rows: Sequence[list[int]]) -> Tensor:
    tokens, mask = pad(rows, [0] * len(rows))
    padding = model.config.pad_token_id  # where a sequence ends, the model finds out by its padding
    assert padding is not None
    return model(input_ids=tokens.masked_fill(~mask, padding), attention_mask=mask.long()).logits[:, 0]  # [rows]
