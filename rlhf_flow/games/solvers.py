"""Solvers for tabular policies: gradient descent, Newton's method, or a choice from a finite class."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Protocol

import torch
from torch import Tensor

from rlhf_flow.games.game import Board

Losses = Callable[[Tensor], Tensor]  # a table of logits -> the loss of each game that has pairs, 0 for others


class Method(Protocol):
    """Computes the next table from the losses."""

    def solve(self, board: Board, logits: Tensor, losses: Losses) -> Tensor: ...


@dataclass(frozen=True)
class Descent:
    """Gradient descent on the logits."""

    lr: float
    steps: int = 1

    def solve(self, board: Board, logits: Tensor, losses: Losses) -> Tensor:
        for _ in range(self.steps):
            logits = logits - self.lr * _gradient(losses, logits)
        return logits


@dataclass(frozen=True)
class Fit:
    """The minimum of the loss, by Newton's method with a line search, starting from the current policy.

    `bound`: the maximum |logit - reference logit| in nats. The policies are then those of bounded rewards,
    pi ~ pi_ref * exp(r / beta) with |r| <= beta * bound, as theory assumes; without it hard labels have no minimum.
    `corners`: also start from each answer leading all others by `bound`, and keep the best result: a loss with an
    exploration term is not convex.
    """

    bound: float | None = None
    most: int = 60  # Newton steps
    enough: float = 1e-13  # largest entry of the projected gradient
    corners: bool = False

    def solve(self, board: Board, logits: Tensor, losses: Losses) -> Tensor:
        newton = Newton(board, losses, logits, width=torch.inf if self.bound is None else self.bound)
        starts = [newton.start]
        if self.corners:
            raised = torch.eye(newton.start.shape[1], dtype=torch.bool)
            starts += [torch.where(raised[d], newton.high, newton.low) for d in range(len(raised))]
        ends = torch.stack([self._descended(newton, start) for start in starts])  # [starts, G, D]
        found = torch.stack([losses(newton.table(end)) for end in ends])  # [starts, G]
        gained = found[0] - found > 1e-9  # more than rounding; else the policy keeps the first result
        best = torch.where(gained, found, found[0]).argmin(0)  # [G]
        return newton.table(ends[best, torch.arange(len(best))])

    def _descended(self, newton: Newton, point: Tensor) -> Tensor:
        for _ in range(self.most):
            moved = newton.step(point, enough=self.enough)
            if moved is None:
                break
            point = moved
        return point


@dataclass(frozen=True)
class Choice:
    """The best of a finite class of policies for each game; the first, if several are equal."""

    tables: Sequence[Tensor] = field(repr=False)

    def solve(self, board: Board, logits: Tensor, losses: Losses) -> Tensor:
        each = torch.stack([losses(table) for table in self.tables])  # [C, G]
        best = each.argmin(0)[torch.from_numpy(board.games_of_rows)]  # [rows]
        return torch.stack(list(self.tables))[best, torch.arange(len(best))]


def _gradient(losses: Losses, logits: Tensor) -> Tensor:
    leaf = logits.detach().requires_grad_()
    (gradient,) = torch.autograd.grad(losses(leaf).sum(), leaf)
    return gradient.nan_to_num()  # 0 for logits of -inf


class Newton:
    """Newton's method for all games at once. A point is [G, D]: the free logits of each game, padded with zeros."""

    def __init__(self, board: Board, losses: Losses, logits: Tensor, *, width: float) -> None:
        self.losses, self.base = losses, logits
        self.allowed = board.reference.isfinite()
        games = torch.from_numpy(board.games_of_rows)[self.allowed.nonzero()[:, 0]]  # of each free logit
        sizes = torch.bincount(games, minlength=len(board.games))
        self.real = torch.arange(int(sizes.max()))[None, :] < sizes[:, None]  # [G, D]
        reference = self._spread(board.reference[self.allowed])
        self.low, self.high = reference - width, reference + width
        self.start = torch.clamp(self._spread(logits[self.allowed]), self.low, self.high)

    def table(self, point: Tensor) -> Tensor:
        return self.base.masked_scatter(self.allowed, point[self.real])

    def step(self, point: Tensor, *, enough: float) -> Tensor | None:
        """The next point inside the box, or None if no step lowers the loss of any game."""
        leaf = point.detach().requires_grad_()
        values = self.losses(self.table(leaf))  # [G]
        (slope,) = torch.autograd.grad(values.sum(), leaf, create_graph=True)
        gradient = slope.detach()
        outward = ((point <= self.low) & (gradient > 0)) | ((point >= self.high) & (gradient < 0))
        free = self.real & ~outward
        downhill = torch.where(free, gradient, 0.0)
        if float(downhill.abs().max()) <= enough:
            return None
        direction = -_solved(self._hessian(slope, leaf), downhill, free)
        return self._searched(point, direction, values.detach())

    def _hessian(self, gradient: Tensor, leaf: Tensor) -> Tensor:
        """[G, D, D]. Games are independent, so one backward pass gives a column of every game's block."""
        columns = [
            torch.autograd.grad(gradient[:, d].sum(), leaf, retain_graph=True)[0] for d in range(gradient.shape[1])
        ]
        return torch.stack(columns, -1)

    def _searched(self, point: Tensor, direction: Tensor, values: Tensor) -> Tensor | None:
        """Halve each game's step until its loss falls; a game whose loss never falls keeps its point."""
        rate = torch.ones(len(point), 1, dtype=torch.float64)
        best = point
        for _ in range(40):
            moved = torch.clamp(point + rate * direction, self.low, self.high)
            better = self.losses(self.table(moved)) < values  # [G]
            best = torch.where((better & (rate[:, 0] > 0))[:, None], moved, best)
            rate = torch.where(better[:, None], 0.0, rate / 2)
            if not rate.any():
                break
        return None if torch.equal(best, point) else best

    def _spread(self, free: Tensor) -> Tensor:
        return torch.zeros(self.real.shape, dtype=torch.float64).masked_scatter(self.real, free)


def _solved(hessian: Tensor, gradient: Tensor, free: Tensor) -> Tensor:
    """|H|^-1 gradient of the free entries [G, D]: a descent direction even if H is indefinite, 0 where it is flat."""
    both = free[:, :, None] & free[:, None, :]
    curvature, axes = torch.linalg.eigh(torch.where(both, hessian, 0.0))
    size = curvature.abs()
    flat = size <= 1e-12 * size.amax(-1, keepdim=True).clamp(min=1e-300)  # a constant added to all logits of a row
    scale = torch.where(flat, 0.0, 1 / torch.where(flat, 1.0, size))
    return (axes @ (scale * (axes.mT @ gradient[..., None])[..., 0])[..., None])[..., 0]
