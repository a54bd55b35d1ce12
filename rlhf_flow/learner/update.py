"""One optimizer step on a global batch, whoever shares it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

from rlhf_flow.learner.backend import Backend
from rlhf_flow.learner.batches import Example, Packed, deal, pack
from rlhf_flow.protocols import Objective
from rlhf_flow.types import Loss, PairLogps, Sides, TokenLogps


@dataclass(frozen=True)
class Sums:
    """Sums over the pairs of a global batch, each times its weight."""

    weight: float
    values: Mapping[str, float]  # loss, and the objective's metrics


def take_step(
    backend: Backend, objective: Objective, batch: Sequence[Example], *, micro_batch: int, lr: float
) -> tuple[Sums, float]:
    """Move the weights by the gradient of a global batch's weighted mean loss; return its sums and the gradient norm.

    Every rank calls it with the same arguments and computes its own share. Raises FloatingPointError, with the weights
    as they were, where a loss or the gradient is not finite.
    """
    weight = sum(example.weight for example in batch)
    waves = deal([example.length for example in batch], ranks=backend.size, micro_batch=micro_batch)
    sums: dict[str, float] = {}
    broken = torch.zeros(len(batch), dtype=torch.float64)  # 1 where a pair's loss is not finite
    for wave in waves:
        mine = wave[backend.rank]
        # A rank without a pair still takes part: collectives count on it. Its stand-in weighs nothing.
        share = [batch[i] for i in mine] or [replace(batch[wave[0][-1]], weight=0.0)]
        loss, weights = pair_loss(backend, objective, share)
        total = (loss.values * weights).sum() / weight
        if wave is not waves[-1]:
            backend.backward(total, last=False)
        broken[mine] = (~loss.values.detach().isfinite()).double().cpu()[: len(mine)]
        for name, values in {"loss": loss.values.detach(), **loss.metrics}.items():
            sums[name] = sums.get(name, 0.0) + (values.double() * weights).sum().item()
    names = sorted(sums)
    added = backend.sum(torch.cat([torch.tensor([sums[name] for name in names], dtype=torch.float64), broken]))
    broken = added[len(names) :]
    if broken.any():
        backend.discard(total)
        culprits = _names([batch[i] for i in broken.nonzero()[:, 0].tolist()])
        raise FloatingPointError(f"the loss is not finite for {culprits}. The weights are as they were.")
    backend.backward(total, last=True)
    try:
        norm = backend.step(lr)
    except FloatingPointError as error:
        message = f"{error}, though every loss is finite, for {_names(batch)}. The weights are as they were."
        raise FloatingPointError(message) from error
    return Sums(weight, dict(zip(names, added[: len(names)].tolist(), strict=True))), norm


def pair_loss(backend: Backend, objective: Objective, examples: Sequence[Example]) -> tuple[Loss, Tensor]:
    """The loss of each pair [P], and the pairs' weights [P]."""
    packed = pack([example.rows[side] for side in (0, 1) for example in examples])
    logps = backend.logps(packed)  # [M]
    pairs = PairLogps(
        current=_sides(packed, logps),
        anchors={
            name: _sides(packed, _anchor(examples, name).to(logps.device)) for name in sorted(examples[0].anchors)
        },
        preference=torch.tensor([example.preference for example in examples], device=logps.device),
        weight=torch.tensor([example.weight for example in examples], device=logps.device),
    )
    return objective.loss(pairs), pairs.weight


def _anchor(examples: Sequence[Example], name: str) -> Tensor:
    return torch.from_numpy(np.concatenate([example.anchors[name][side] for side in (0, 1) for example in examples]))


def _sides(packed: Packed, logps: Tensor) -> Sides:
    """Log-probs [M], row by row, as the first and second sides of P pairs: 2P rows, all firsts before all seconds."""
    mask = torch.from_numpy(packed.mask).to(logps.device)  # [2P, T]
    values = torch.zeros(mask.shape, device=logps.device).masked_scatter(mask, logps)  # [2P, T]
    pairs = len(mask) // 2
    return Sides(TokenLogps(values[:pairs], mask[:pairs]), TokenLogps(values[pairs:], mask[pairs:]))


def _names(examples: Sequence[Example]) -> str:
    named = "; ".join(f"{first} against {second}" for first, second in (example.ids for example in examples[:8]))
    more = f"; and {len(examples) - 8} more" if len(examples) > 8 else ""
    return f"{len(examples)} pair{'s' * (len(examples) != 1)}: {named}{more}"
