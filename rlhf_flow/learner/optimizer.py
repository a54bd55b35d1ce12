"""The optimizer, and its learning rate as a pure function of progress."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch
    from torch import nn

RATE = 5e-7  # common for preference optimisation of 7 B models


@dataclass(frozen=True)
class Optimizer:
    """AdamW (Loshchilov and Hutter 2019, arXiv:1711.05101), or plain gradient descent."""

    name: str = "adamw"  # adamw | sgd
    lr: float | None = None  # peak, scaled by the schedule; null: by model size, 5e-7 for 7 B
    betas: list[float] = field(default_factory=lambda: [0.9, 0.999])  # adamw only
    eps: float = 1e-8  # adamw only
    weight_decay: float = 0.0  # of matrices only, not of norms and biases; decoupled in adamw

    def __post_init__(self) -> None:
        key = "learner.training.optimizer"
        if self.name not in ("adamw", "sgd"):
            raise ValueError(f"{key}.name must be adamw or sgd, got {self.name!r}")
        if self.lr is not None and not self.lr > 0:
            raise ValueError(f"{key}.lr must be > 0, got {self.lr}. Usual for DPO: 5e-7; for a tiny model 1e-3")
        if len(self.betas) != 2 or not all(0 <= beta < 1 for beta in self.betas):
            raise ValueError(f"{key}.betas must be two numbers in [0, 1), got {list(self.betas)}. Usual: [0.9, 0.999]")
        if not self.eps > 0:
            raise ValueError(f"{key}.eps must be > 0, got {self.eps}. Usual: 1e-8")
        if self.weight_decay < 0:
            raise ValueError(f"{key}.weight_decay must be >= 0, got {self.weight_decay}. 0 turns it off")

    @property
    def rate(self) -> float:
        """`lr`, or 5e-7 if unset. A run sets `lr` by the size of its model."""
        return RATE if self.lr is None else self.lr

    @property
    def moments(self) -> tuple[str, ...]:
        """The keys of its moments in the optimizer's state."""
        return ("exp_avg", "exp_avg_sq") if self.name == "adamw" else ()

    def build(self, model: nn.Module, decayed: frozenset[str] | None = None) -> torch.optim.Optimizer:
        """The optimizer of the trainable parameters. The caller sets its learning rate before each step.

        `decayed`: `matrices` of the model before its parameters were partitioned.
        """
        import torch

        decayed = matrices(model) if decayed is None else decayed
        parameters = [(name, p) for name, p in model.named_parameters() if p.requires_grad]
        groups = [
            {"params": [p for name, p in parameters if name in decayed], "weight_decay": self.weight_decay},
            {"params": [p for name, p in parameters if name not in decayed], "weight_decay": 0.0},
        ]
        groups = [group for group in groups if group["params"]]
        if self.name == "sgd":
            return torch.optim.SGD(groups, lr=self.rate)
        betas = (self.betas[0], self.betas[1])
        return torch.optim.AdamW(groups, lr=self.rate, betas=betas, eps=self.eps, fused=True)  # without temporaries


def matrices(model: nn.Module) -> frozenset[str]:
    """The names of the parameters that weight decay applies to: all but norms and biases."""
    return frozenset(name for name, parameter in model.named_parameters() if parameter.dim() >= 2)


@dataclass(frozen=True)
class LearningRate:
    """The factor on `optimizer.lr`: rises from 0 during `warmup`, then stays, or falls to 0 at the end of the span."""

    kind: str = "constant"  # constant | linear | cosine
    warmup: float = 0.0  # share of the span
    span: str = "round"  # round (every round restarts) | run (all rounds together)

    def __post_init__(self) -> None:
        key = "learner.training.schedule"
        if self.kind not in ("constant", "linear", "cosine"):
            raise ValueError(f"{key}.kind must be constant, linear or cosine, got {self.kind!r}")
        if not 0 <= self.warmup < 1:
            raise ValueError(f"{key}.warmup must be in [0, 1): a share of the span, not steps; got {self.warmup}")
        if self.span not in ("round", "run"):
            raise ValueError(f"{key}.span must be round or run, got {self.span!r}")

    def progress(self, step: int, steps: int, *, round: int, rounds: int) -> float:
        """The share of the span, in (0, 1), at the middle of step 0 <= step < steps of round 1 <= round <= rounds.

        The middle, so that neither the first step of a warm-up nor the last of a decay has a rate of 0.
        """
        share = (step + 0.5) / steps
        return share if self.span == "round" else (round - 1 + share) / rounds

    def factor(self, progress: float) -> float:
        if progress < self.warmup:
            return progress / self.warmup
        left = (1 - progress) / (1 - self.warmup)
        if self.kind == "constant":
            return 1.0
        return left if self.kind == "linear" else (1 - math.cos(math.pi * left)) / 2
