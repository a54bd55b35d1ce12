"""Random groups of answers to check objectives on, and the check itself; as `pairs` and `closed_form_check`."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TypeAlias

import numpy as np
import torch

from rlhf_flow.protocols import Objective
from rlhf_flow.types import GroupLogps, TokenLogps
from rlhf_flow.verify.claim import Finding, below
from rlhf_flow.verify.closed_form_check import EXACT, NUMERIC, STEP, difference

Slopes: TypeAlias = list[list[float]]  # answer -> derivative by each token
GroupFormula: TypeAlias = Callable[["OneGroup"], tuple[float, Slopes]]  # loss and gradient
POLICIES = ("current", "reference", "previous")
LONGEST = 5


@dataclass(frozen=True)
class OneGroup:
    """A group in plain numbers, the best answer first."""

    tokens: Mapping[str, Sequence[Sequence[float]]]  # policy -> answer -> log-prob of each token
    worth: Sequence[float]

    @property
    def size(self) -> int:
        return len(self.worth)

    @property
    def mean_worth(self) -> float:
        return sum(self.worth) / self.size

    def length(self, answer: int) -> int:
        return len(self.tokens["current"][answer])

    def sum(self, policy: str, answer: int) -> float:
        total = 0.0
        for logp in self.tokens[policy][answer]:
            total += logp
        return total

    def ratio(self, anchor: str, answer: int) -> float:
        return self.sum("current", answer) - self.sum(anchor, answer)

    def slopes(self, by_sum: Sequence[float]) -> Slopes:
        """The gradient by each token, from the derivatives by the log-prob of each answer."""
        return [[slope] * self.length(answer) for answer, slope in enumerate(by_sum)]

    def moved(self, answer: int, token: int, by: float) -> OneGroup:
        """The group with the log-prob of one token under the policy changed by `by`."""
        current = [list(logps) for logps in self.tokens["current"]]
        current[answer][token] += by
        return replace(self, tokens={**self.tokens, "current": current})


def draw_groups(seed: int, *, count: int = 12, levels: bool = False) -> list[OneGroup]:
    """Groups of two to five answers of one to five tokens; `levels`: their worths are 0, 1/2 or 1."""
    rng = np.random.default_rng(seed)
    groups = []
    for _ in range(count):
        size = int(rng.integers(2, 6))
        lengths = rng.integers(1, LONGEST + 1, size)
        common = [-rng.exponential(2, length) for length in lengths]
        tokens = {
            policy: [(each + 0.5 * rng.normal(size=len(each))).tolist() for each in common] for policy in POLICIES
        }
        worth = rng.choice([0.0, 0.5, 1.0], size) if levels else rng.normal(size=size)
        groups.append(OneGroup(tokens, sorted(worth.tolist(), reverse=True)))
    return groups


def tensors(groups: Sequence[OneGroup], objective: Objective) -> GroupLogps:
    sizes = torch.tensor([group.size for group in groups])

    def block(policy: str) -> TokenLogps:
        lines = [logps for group in groups for logps in group.tokens[policy]]
        values = torch.zeros(len(lines), LONGEST, dtype=torch.float64)
        mask = torch.zeros(values.shape, dtype=torch.bool)
        for row, logps in enumerate(lines):
            values[row, : len(logps)] = torch.tensor(logps, dtype=torch.float64)
            mask[row, : len(logps)] = True
        return TokenLogps(values.requires_grad_(policy == "current"), mask)

    return GroupLogps(
        current=block("current"),
        anchors={name: block(name) for name in sorted(objective.needs.anchors)},
        group=torch.arange(len(groups)).repeat_interleave(sizes),
        worth=torch.tensor([worth for group in groups for worth in group.worth], dtype=torch.float64),
        weight=torch.ones(len(groups), dtype=torch.float64),
        mass=(1 / sizes.double()).repeat_interleave(sizes),
    )


def agreement_of_groups(
    variants: Sequence[tuple[Objective, GroupFormula]], *, seed: int = 0, surrogate: bool = False, levels: bool = False
) -> Iterator[Finding]:
    """Compare each objective of groups with its closed form on random groups. `surrogate`: as in `agreement`."""
    groups = draw_groups(seed, levels=levels)
    value = slope = numeric = 0.0
    for objective, formula in variants:
        values, lines = gradients(objective, groups)
        expected: Slopes = []
        for group, measured in zip(groups, values, strict=True):
            loss, slopes = formula(group)
            value = max(value, difference(measured, loss))
            expected += slopes
        pairs = [pair for line, there in zip(lines, expected, strict=True) for pair in zip(line, there, strict=True)]
        slope = max(slope, *(difference(*pair) for pair in pairs))
        if not surrogate:
            numeric = max(numeric, from_differences(objective, groups, lines))
    yield below("the loss against its formula, largest difference", value, EXACT)
    yield below("its gradient by every token against the formula's", slope, EXACT)
    if not surrogate:
        yield below("its gradient against finite differences", numeric, NUMERIC)


def gradients(objective: Objective, groups: Sequence[OneGroup]) -> tuple[list[float], Slopes]:
    """The loss of each group, and the gradient of each answer by its tokens."""
    given = tensors(groups, objective)
    values = objective.loss(given).values
    (found,) = torch.autograd.grad(values.sum(), given.current.values)
    return values.tolist(), [row[mask].tolist() for row, mask in zip(found, given.current.mask, strict=True)]


def from_differences(objective: Objective, groups: Sequence[OneGroup], lines: Slopes) -> float:
    """The largest difference of a token's derivative to the central difference."""
    answers = [(group, answer) for group in groups for answer in range(group.size)]
    places = [(*place, token, row) for row, place in enumerate(answers) for token in range(place[0].length(place[1]))]

    def moved(by: float) -> list[float]:
        there = [group.moved(answer, token, by) for group, answer, token, _ in places]
        return list(objective.loss(tensors(there, objective)).values.tolist())

    return max(
        difference(lines[row][token], (up - down) / (2 * STEP))
        for (_, _, token, row), up, down in zip(places, moved(STEP), moved(-STEP), strict=True)
    )
