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
from rlhf_flow.sandbox.policy import anneal, descend, optimizers_of
from rlhf_flow.sandbox.tokenizer import answer_tokens, prompt_tokens
from rlhf_flow.types import Message

if TYPE_CHECKING:
    from torch import Tensor
    from transformers import LlamaForCausalLM, LlamaForSequenceClassification, PreTrainedTokenizerFast

CENTRE = 0.01  # weight of the mean squared reward: Bradley-Terry leaves the zero of a reward open


@dataclass(frozen=True)
class Comparison:
    """The answers to one prompt, and what is known of them."""

    prompt: list[int]
    answers: tuple[list[int], ...]  # each ends with EOS
    gold: tuple[float, ...]
    preferred: tuple[tuple[int, int], ...]  # (better, worse) as noisy judges say, for every pair


def compare(words: PreTrainedTokenizerFast, prompt: str, answers: Sequence[str], rng: random.Random) -> Comparison:
    """Let noisy judges compare all pairs of different answers."""
    gold = [worth((Message(role="user", content=prompt),), answer, {}).utility for answer in answers]
    pairs = [(i, j) for i, j in combinations(range(len(answers)), 2) if answers[i] != answers[j]]
    preferred = tuple((i, j) if prefers(gold[i], gold[j], rng) else (j, i) for i, j in pairs)
    return Comparison(
        prompt=prompt_tokens(words, prompt),
        answers=tuple(answer_tokens(words, answer) for answer in answers),  # from their texts, as by any judge
        gold=tuple(gold),
        preferred=preferred,
    )


def spoil(answer: str, rng: random.Random) -> str:
    """What goes wrong with answers when a policy goes astray: cut, scrambled, or stuck on a phrase."""
    words = answer.split()
    if not words:  # a policy may say nothing
        return answer
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
    optimizers = optimizers_of(model, lr)
    order = random.Random(seed).sample(comparisons, len(comparisons))
    steps = len(order) // batch
    losses: list[float] = []
    hits: list[float] = []
    model.train()
    for step in range(steps):
        rewards, better, worse = _judge(model, order[step * batch : (step + 1) * batch])
        margin = rewards[better] - rewards[worse]  # [pairs]
        loss = -torch.nn.functional.logsigmoid(margin).mean() + CENTRE * rewards.square().mean()
        descend(model, optimizers, loss, lr=lr * anneal(step, steps))
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
            rewards = rewards_of(model, chunk).tolist()
            for comparison in chunk:
                mine, rewards = rewards[: len(comparison.answers)], rewards[len(comparison.answers) :]
                for i, j in combinations(range(len(mine)), 2):
                    if comparison.gold[i] != comparison.gold[j]:
                        hits.append((mine[i] > mine[j]) == (comparison.gold[i] > comparison.gold[j]))
    return sum(hits) / len(hits), len(hits)


def _judge(
    model: LlamaForSequenceClassification, comparisons: Sequence[Comparison]
) -> tuple[Tensor, list[int], list[int]]:
    """Rewards [answers] of a batch, and where in it the better and the worse answer of each pair are."""
    rewards = rewards_of(model, comparisons)
    better: list[int] = []
    worse: list[int] = []
    first = 0
    for comparison in comparisons:
        better.extend(first + winner for winner, _ in comparison.preferred)
        worse.extend(first + loser for _, loser in comparison.preferred)
        first += len(comparison.answers)
    return rewards, better, worse


def rewards_of(model: LlamaForSequenceClassification, comparisons: Sequence[Comparison]) -> Tensor:
    """The reward of every answer of every comparison, in turn: [answers].

    One row holds a prompt once and all answers to it behind; each sees the prompt and itself, at the positions that it
    would have alone. That is 1.8 times as fast as one row per answer.
    """
    import torch

    rows = [_row(comparison) for comparison in comparisons]
    longest = max(len(row.tokens) for row in rows)
    tokens = torch.tensor([row.tokens + [0] * (longest - len(row.tokens)) for row in rows])  # [B, T]
    places = torch.tensor([row.places + [0] * (longest - len(row.places)) for row in rows])
    owners = torch.tensor([row.owners + [-1] * (longest - len(row.owners)) for row in rows])
    asked, asking = owners[:, None, :], owners[:, :, None]
    seen = ((asked == asking) | (asked == 0)) & torch.ones(longest, longest, dtype=torch.bool).tril()
    seen |= torch.eye(longest, dtype=torch.bool)  # padding sees itself: a softmax over nothing is not a number
    hidden = model.model(
        input_ids=tokens, position_ids=places, attention_mask=seen[:, None], use_cache=False
    ).last_hidden_state
    at = [(row, end) for row, one in enumerate(rows) for end in one.ends]
    last = hidden[[row for row, _ in at], [end for _, end in at]]
    return model.score(last)[:, 0]


@dataclass(frozen=True)
class _Row:
    """Per token: what it is, its position, and whose it is: 0 for the prompt, then the answers from 1."""

    tokens: list[int]
    places: list[int]
    owners: list[int]
    ends: list[int]  # where each answer has its EOS


def _row(comparison: Comparison) -> _Row:
    asked = len(comparison.prompt)
    row = _Row(tokens=list(comparison.prompt), places=list(range(asked)), owners=[0] * asked, ends=[])
    for owner, answer in enumerate(comparison.answers, start=1):
        row.tokens.extend(answer)
        row.places.extend(range(asked, asked + len(answer)))
        row.owners.extend([owner] * len(answer))
        row.ends.append(len(row.tokens) - 1)
    return row
