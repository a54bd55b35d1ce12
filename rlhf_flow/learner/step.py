"""One optimizer step on a global batch."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import TypeAlias

import numpy as np
import torch
from torch import Tensor

from rlhf_flow.learner.backend import Backend
from rlhf_flow.learner.batching import Example, Limits, Packed, Row, deal, pack
from rlhf_flow.protocols import Objective
from rlhf_flow.types import GroupLogps, Loss, PairLogps, Sides, TokenLogps

Pack: TypeAlias = Callable[[Sequence[Row]], Packed]  # of the model's readout


@dataclass(frozen=True)
class Sums:
    """Weighted sums over the pairs of a global batch."""

    weight: float
    values: Mapping[str, float]  # loss, and the objective's metrics


def take_step(
    backend: Backend,
    objective: Objective,
    batch: Sequence[Example],
    *,
    limits: Limits,
    lr: float,
    pack: Pack = pack,
) -> tuple[Sums, float]:
    """Step along the gradient of a global batch's weighted mean loss; return its sums and the gradient norm.

    Every rank calls it with the same arguments and computes its share. Raises FloatingPointError, without changing the
    weights, if a loss or the gradient norm is not finite.
    """
    weight = sum(example.weight for example in batch)
    if objective.needs.examples == "groups":
        read = partial(group_loss, tokens=_tokens(batch))
    else:
        read = partial(pair_loss, chosen_tokens=_chosen(batch))
    waves = deal([example.rows for example in batch], limits, ranks=backend.replicas)
    sums: dict[str, float] = {}
    broken = torch.zeros(len(batch), dtype=torch.float64)  # 1: the pair's loss is not finite
    for wave in waves:
        mine = wave[backend.replica]
        # A rank without pairs must still take part in collectives: it computes a stand-in of weight 0.
        share = [batch[i] for i in mine] or [replace(batch[wave[0][-1]], weight=0.0)]
        loss, weights = read(backend, objective, share, pack=pack)
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
        names_of_pairs = _names([batch[i] for i in broken.nonzero()[:, 0].tolist()])
        raise FloatingPointError(f"the loss is not finite for {names_of_pairs}. The weights are unchanged.")
    backend.backward(total, last=True)
    try:
        norm = backend.step(lr)
    except FloatingPointError as error:
        message = f"{error}, though every loss is finite, for {_names(batch)}. The weights are unchanged."
        raise FloatingPointError(message) from error
    return Sums(weight, dict(zip(names, added[: len(names)].tolist(), strict=True))), norm


def _chosen(batch: Sequence[Example]) -> float:
    """The mean number of tokens of the preferred responses."""
    return float(np.mean([len(one.rows[one.preference < 0.5].tokens) for one in batch]))


def _tokens(batch: Sequence[Example]) -> float:
    """The mean number of response tokens of a group, by the groups' weights."""
    counts = [sum(len(row.tokens) for row in one.rows) for one in batch]
    return float(np.average(counts, weights=[one.weight for one in batch]))


def group_loss(
    backend: Backend, objective: Objective, examples: Sequence[Example], *, pack: Pack = pack, tokens: float = 1.0
) -> tuple[Loss, Tensor]:
    """The loss of each group [G], and the groups' weights [G]."""
    packed = pack([row for example in examples for row in example.rows])
    logps = backend.logps(packed)  # [M]
    device, mask = logps.device, torch.from_numpy(packed.mask).to(logps.device)  # [R, T]
    sizes = [len(example.rows) for example in examples]
    # the third response of a group, if the objective reads it, is its last row
    is_third = torch.zeros(len(mask), dtype=torch.bool, device=device)
    if objective.needs.extra is not None:
        is_third[torch.tensor(sizes, device=device).cumsum(0) - 1] = True
        sizes = [size - 1 for size in sizes]

    def dense(values: Tensor, wanted: Tensor) -> TokenLogps:
        whole = torch.zeros(mask.shape, device=device, dtype=values.dtype).masked_scatter(mask, values)
        return TokenLogps(whole[wanted], mask[wanted])

    def anchor(name: str) -> Tensor:
        if name not in examples[0].anchors:  # the policy before its only step
            return logps.detach()
        return torch.from_numpy(np.concatenate([one for each in examples for one in each.anchors[name]])).to(device)

    def column(values: Sequence[Sequence[float]]) -> Tensor:
        return torch.tensor([value for each in values for value in each], device=device)

    groups = GroupLogps(
        current=dense(logps, ~is_third),
        anchors={name: dense(anchor(name), ~is_third) for name in sorted(objective.needs.anchors)},
        group=torch.arange(len(sizes), device=device).repeat_interleave(torch.tensor(sizes, device=device)),
        worth=column([example.worth or [math.nan] * size for example, size in zip(examples, sizes, strict=True)]),
        weight=torch.tensor([example.weight for example in examples], device=device),
        mass=column([_shares(example, size) for example, size in zip(examples, sizes, strict=True)]),
        enumerated=any(example.mass is not None for example in examples),
        extra=dense(logps, is_third) if is_third.any() else None,
        tokens=tokens,
    )
    return objective.loss(groups), groups.weight


def _shares(example: Example, size: int) -> list[float]:
    """The share of each response in its group."""
    mass = example.mass or (1.0,) * size
    return [one / sum(mass) for one in mass]


def pair_loss(
    backend: Backend,
    objective: Objective,
    examples: Sequence[Example],
    *,
    pack: Pack = pack,
    chosen_tokens: float = 1.0,
) -> tuple[Loss, Tensor]:
    """The loss of each pair [P], and the pairs' weights [P]. A response of several pairs has one forward pass."""
    at = _places(examples)
    packed = pack([examples[p].rows[side] for p, side in at.first_seen])
    logps = backend.logps(packed)  # [M]
    device = logps.device

    def sides(values: Tensor) -> Sides:
        """Log-probs [M], row by row, as the sides of P pairs."""
        mask = torch.from_numpy(packed.mask).to(device)  # [R, T]
        dense = torch.zeros(mask.shape, device=device, dtype=values.dtype).masked_scatter(mask, values)
        return Sides(*(TokenLogps(dense[rows], mask[rows]) for rows in at.rows))

    def anchor(name: str) -> Tensor:
        if name not in examples[0].anchors:  # the policy before its only step
            return logps.detach()
        values = np.concatenate([examples[p].anchors[name][side] for p, side in at.first_seen])
        return torch.from_numpy(values).to(device)

    with_worth = all(example.worth is not None for example in examples)
    pairs = PairLogps(
        current=sides(logps),
        anchors={name: sides(anchor(name)) for name in sorted(objective.needs.anchors)},
        preference=torch.tensor([example.preference for example in examples], device=device),
        weight=torch.tensor([example.weight for example in examples], device=device),
        worth=torch.tensor([example.worth for example in examples], device=device) if with_worth else None,
        chosen_tokens=chosen_tokens,
    )
    return objective.loss(pairs), pairs.weight


@dataclass(frozen=True)
class Places:
    """The row of each response of P pairs, among R distinct responses."""

    first_seen: list[tuple[int, int]]  # [R]: the first (pair, side) with this response
    rows: list[list[int]]  # [P] each, of first, second and, if pairs have it, extra


def _places(examples: Sequence[Example]) -> Places:
    place: dict[str, int] = {}
    first_seen: list[tuple[int, int]] = []
    sides = len(examples[0].ids)
    rows: list[list[int]] = [[] for _ in range(sides)]
    for side in range(sides):
        for p, example in enumerate(examples):
            id = example.ids[side]
            if id not in place:
                place[id] = len(first_seen)
                first_seen.append((p, side))
            rows[side].append(place[id])
    return Places(first_seen, rows)


def _names(examples: Sequence[Example]) -> str:
    named = "; ".join(" against ".join(example.ids[:2]) for example in examples[:8])
    more = f"; and {len(examples) - 8} more" if len(examples) > 8 else ""
    return f"{len(examples)} pair{'s' * (len(examples) != 1)}: {named}{more}"
