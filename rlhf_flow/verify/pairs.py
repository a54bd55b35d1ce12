"""Random pairs to check objectives on, as plain lists of log-probs and as tensors."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TypeAlias

import numpy as np
import torch

from rlhf_flow.protocols import Objective
from rlhf_flow.types import PairLogps, Sides, TokenLogps

SIDES = ("first", "second", "extra")
ANCHORS = ("reference", "previous", "previous_2", "previous_3", "reward_policy", "sibling")

Gradient: TypeAlias = dict[str, list[float]]  # side -> derivative by each token
ClosedForm: TypeAlias = Callable[["OnePair"], tuple[float, Gradient]]  # loss and gradient


@dataclass(frozen=True)
class OnePair:
    """One pair in plain numbers."""

    tokens: Mapping[str, Mapping[str, Sequence[float]]]  # policy -> side -> log-prob of each token
    p: float
    worth: tuple[float, float]

    def sum(self, policy: str, side: str) -> float:
        total = 0.0
        for logp in self.tokens[policy][side]:
            total += logp
        return total

    def length(self, side: str) -> int:
        return len(self.tokens["current"][side])

    def ratio(self, anchor: str, side: str, reduction: str = "sum") -> float:
        whole = self.sum("current", side) - self.sum(anchor, side)
        return whole / self.length(side) if reduction == "mean" else whole

    def gap(self, anchor: str, reduction: str = "sum") -> float:
        return self.ratio(anchor, "first", reduction) - self.ratio(anchor, "second", reduction)

    def slopes(self, first: float, second: float, reduction: str = "sum", extra: float = 0.0) -> Gradient:
        """The gradient by each token, from the derivatives by the log-ratio of each side."""
        of_sides = {"first": first, "second": second, "extra": extra}
        share = {side: 1 / self.length(side) if reduction == "mean" and side != "extra" else 1.0 for side in SIDES}
        return {side: [of_sides[side] * share[side]] * self.length(side) for side in SIDES}

    def moved(self, side: str, token: int, by: float) -> OnePair:
        """The pair with the log-prob of one token under the policy changed by `by`."""
        logps = list(self.tokens["current"][side])
        logps[token] += by
        return replace(self, tokens={**self.tokens, "current": {**self.tokens["current"], side: logps}})

    def swapped(self) -> OnePair:
        other = {"first": "second", "second": "first", "extra": "extra"}
        tokens = {policy: {side: sides[other[side]] for side in SIDES} for policy, sides in self.tokens.items()}
        return OnePair(tokens, 1 - self.p, (self.worth[1], self.worth[0]))


def draw_pairs(seed: int, *, count: int = 4, scale: float = 1.0) -> list[OnePair]:
    """Pairs of responses of 1 to 5 tokens, all sides of different lengths; `scale`: the spread between the policies."""
    rng = np.random.default_rng(seed)
    pairs = []
    for _ in range(count):
        lengths = rng.permutation(5)[:3] + 1
        tokens: dict[str, dict[str, list[float]]] = {policy: {} for policy in ("current", *ANCHORS)}
        for side, length in zip(SIDES, lengths, strict=True):
            common = -rng.exponential(2, length)
            for sides in tokens.values():
                sides[side] = (common + scale * rng.normal(size=length)).tolist()
        p = float(rng.choice([0.0, 1.0, 0.5, rng.uniform(), rng.uniform()]))
        pairs.append(OnePair(tokens, p, (float(rng.uniform()), float(rng.uniform()))))
    return pairs


def at_the_anchors(pair: OnePair, *, p: float, worth: tuple[float, float]) -> OnePair:
    """The same responses, under a policy that equals all anchors."""
    return OnePair(dict.fromkeys(("current", *ANCHORS), pair.tokens["reference"]), p, worth)


def tensors(
    pairs: Sequence[OnePair],
    objective: Objective,
    *,
    left: int = 0,
    right: int = 0,
    padding: float = 0.0,
    dtype: torch.dtype = torch.float64,
) -> PairLogps:
    """Only what `objective` needs, with `left` and `right` columns of padding that hold junk."""
    needs = objective.needs
    sides = [side for side in SIDES if side != "extra" or needs.extra]
    width = left + 5 + right

    def block(policy: str, side: str) -> TokenLogps:
        junk = padding * (1 + ("current", *ANCHORS).index(policy))  # different for each policy
        values = torch.full((len(pairs), width), junk, dtype=dtype)  # [P, T]
        mask = torch.zeros(len(pairs), width, dtype=torch.bool)  # [P, T]
        for row, pair in enumerate(pairs):
            end = left + len(pair.tokens[policy][side])
            values[row, left:end] = torch.tensor(pair.tokens[policy][side], dtype=dtype)
            mask[row, left:end] = True
        return TokenLogps(values.requires_grad_(policy == "current"), mask)

    return PairLogps(
        current=Sides(**{side: block("current", side) for side in sides}),
        anchors={name: Sides(**{side: block(name, side) for side in sides}) for name in sorted(needs.anchors)},
        preference=torch.tensor([pair.p for pair in pairs], dtype=dtype),
        weight=torch.ones(len(pairs), dtype=dtype),
        worth=torch.tensor([pair.worth for pair in pairs], dtype=dtype) if needs.side_value else None,
    )


def blocks(pairs: PairLogps) -> dict[str, TokenLogps]:
    """Side -> log-probs under the policy."""
    sides = {"first": pairs.current.first, "second": pairs.current.second, "extra": pairs.current.extra}
    return {side: block for side, block in sides.items() if block is not None}


def gradients(objective: Objective, pairs: PairLogps) -> tuple[list[float], list[Gradient]]:
    """The loss of each pair, and its gradient by each token without padding."""
    values = objective.loss(pairs).values
    values.sum().backward()
    found: list[Gradient] = []
    for row in range(len(values)):
        of_row: Gradient = {}
        for side, block in blocks(pairs).items():
            gradient = torch.zeros_like(block.values) if block.values.grad is None else block.values.grad
            of_row[side] = gradient[row][block.mask[row]].tolist()
        found.append(of_row)
    return values.tolist(), found
