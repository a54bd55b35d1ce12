"""A step is a function of the global batch, not of how it is cut, ordered or padded."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from rlhf_flow.learner.batching import Example, Limits, Packed, Row
from rlhf_flow.learner.step import Sums, take_step
from rlhf_flow.objective.dpo import DPO
from rlhf_flow.objective.grpo import GRPO


@dataclass
class Tokens:
    """A policy of one weight per token, and a backend that runs its ranks one after the other."""

    size: int = 1
    rank: int = 0
    lr: float = 0.0
    discarded: bool = False
    norm: float = 1.0
    weight: Tensor = field(default_factory=lambda: torch.linspace(-3, -1, 50, dtype=torch.float64).requires_grad_())
    added: list[Tensor] = field(default_factory=list)
    total: Tensor | None = None  # what all ranks add up to, where a test says so

    @property
    def replica(self) -> int:
        return self.rank

    @property
    def replicas(self) -> int:
        return self.size

    def logps(self, packed: Packed) -> Tensor:
        return self.weight[torch.from_numpy(packed.targets)].float()

    def backward(self, loss: Tensor, *, last: bool) -> None:
        loss.backward()

    def step(self, lr: float) -> float:
        if not np.isfinite(self.norm):
            raise FloatingPointError("the gradient norm is inf")
        self.lr = lr
        return self.norm

    def discard(self, loss: Tensor) -> None:
        self.discarded = True

    def sum(self, values: Tensor) -> Tensor:
        self.added.append(values)
        return values if self.total is None else self.total


def example(random: np.random.Generator, *, weight: float = 1.0, name: str = "x") -> Example:
    lengths = random.integers(1, 9, 2)
    rows = tuple(Row(np.array([0], np.int32), random.integers(0, 50, n).astype(np.int32)) for n in lengths)
    reference = tuple(random.normal(-2, 0.5, n).astype(np.float32) for n in lengths)
    preference = float(random.choice([0.0, 0.3, 0.5, 1.0]))
    return Example((f"{name}/0", f"{name}/1"), rows, {"reference": reference}, preference, weight)


def batch_of(seed: int, weights: Sequence[float]) -> list[Example]:
    random = np.random.default_rng(seed)
    return [example(random, weight=weight, name=f"p{i}") for i, weight in enumerate(weights)]


def step(batch: Sequence[Example], *, size: int, micro_batch: int) -> tuple[dict[str, float], Tensor]:
    """Weighted means and gradient of a batch that `size` ranks share."""
    ranks = [Tokens(size=size, rank=rank) for rank in range(size)]
    sums = [take_step(rank, DPO(0.4), batch, limits=Limits(10**6, micro_batch), lr=0.1)[0] for rank in ranks]  # type: ignore[arg-type]
    means = {name: sum(one.values[name] for one in sums) / sums[0].weight for name in sums[0].values}
    gradients = [rank.weight.grad for rank in ranks]
    assert all(gradient is not None for gradient in gradients)
    return means, sum(gradients)  # type: ignore[return-value,arg-type]


def expected(batch: Sequence[Example]) -> tuple[dict[str, float], Tensor]:
    """The same in one line per quantity, in float64, pair by pair."""
    weight = Tokens().weight
    total, means = torch.zeros((), dtype=torch.float64), dict[str, float]()
    for one in batch:
        first, second = (
            weight[torch.from_numpy(row.tokens).long()].sum() - reference.astype(np.float64).sum()
            for row, reference in zip(one.rows, one.anchors["reference"], strict=True)
        )
        logit, share = 0.4 * (first - second), one.weight / sum(other.weight for other in batch)
        softplus = torch.nn.functional.softplus
        loss = one.preference * softplus(-logit) + (1 - one.preference) * softplus(logit)
        total = total + share * loss
        sign = np.sign(one.preference - 0.5)
        correct = (1 + np.sign(sign * logit.item())) / 2
        for name, value in (("loss", loss.item()), ("margin", sign * logit.item()), ("accuracy", correct)):
            means[name] = means.get(name, 0.0) + share * value
    total.backward()
    assert weight.grad is not None
    return means, weight.grad


WEIGHTS = st.lists(st.sampled_from([0.5, 1.0, 3.0]), min_size=1, max_size=10)


@given(WEIGHTS, st.integers(0, 99), st.integers(1, 4), st.integers(1, 5), st.randoms(use_true_random=False))
def test_means_and_gradient_are_those_of_the_definition(
    weights: list[float], seed: int, size: int, micro_batch: int, random: object
) -> None:
    batch = batch_of(seed, weights)
    means, gradient = expected(batch)
    random.shuffle(batch)  # type: ignore[attr-defined]
    found, summed = step(batch, size=size, micro_batch=micro_batch)
    assert {name: found[name] for name in means} == pytest.approx(means, abs=1e-5)
    assert torch.allclose(summed, gradient, atol=1e-6)


@settings(max_examples=20, deadline=None)
@given(WEIGHTS, st.integers(0, 99), st.integers(1, 4), st.integers(1, 5))
def test_every_metric_is_the_same_however_the_batch_is_shared(
    weights: list[float], seed: int, size: int, micro_batch: int
) -> None:
    batch = batch_of(seed, weights)
    whole, _ = step(batch, size=1, micro_batch=len(batch))
    shared, _ = step(batch, size=size, micro_batch=micro_batch)
    assert shared == pytest.approx(whole, abs=1e-5)


def gradient_of(objective: DPO | GRPO, anchors: Mapping[str, tuple[np.ndarray, ...]], tokens: Tokens) -> Tensor:
    """The gradient of one step."""
    batch = [
        replace(one, anchors=anchors.get(one.ids[0], {}), worth=(1.0, 0.0)) for one in batch_of(3, [1.0, 2.0, 1.0])
    ]
    take_step(tokens, objective, batch, limits=Limits(10**6, 2), lr=0.1)  # type: ignore[arg-type]
    assert tokens.weight.grad is not None
    return tokens.weight.grad


@pytest.mark.parametrize("objective", [DPO(0.4), GRPO()])
def test_an_anchor_that_no_example_has_is_the_policy_before_the_step(objective: DPO | GRPO) -> None:
    tokens = Tokens()
    anchors = {
        one.ids[0]: {
            name: tuple(tokens.weight.detach()[torch.from_numpy(row.tokens).long()].float().numpy() for row in one.rows)
            for name in objective.needs.anchors
        }
        for one in batch_of(3, [1.0, 2.0, 1.0])
    }
    assert torch.equal(gradient_of(objective, {}, Tokens()), gradient_of(objective, anchors, tokens))


def broken(one: Example) -> Example:
    return replace(one, anchors={"reference": tuple(np.full_like(logps, np.nan) for logps in one.anchors["reference"])})


def test_a_loss_that_is_not_finite_names_its_pair_and_takes_no_step() -> None:
    batch = batch_of(0, [1.0] * 5)
    batch[3] = broken(batch[3])
    backend = Tokens()
    with pytest.raises(
        FloatingPointError, match=r"not finite for 1 pair: p3/0 against p3/1\. The weights are unchanged"
    ):
        take_step(backend, DPO(), batch, limits=Limits(10**6, 2), lr=0.1)  # type: ignore[arg-type]
    assert backend.discarded
    assert backend.lr == 0


def test_a_rank_without_the_broken_pair_hears_of_it() -> None:
    batch = batch_of(0, [1.0] * 4)
    batch[2] = broken(batch[2])
    shares: list[Tensor] = []
    for rank in range(2):
        backend = Tokens(size=2, rank=rank)
        with suppress(FloatingPointError):
            take_step(backend, DPO(), batch, limits=Limits(10**6, 2), lr=0.1)  # type: ignore[arg-type]
        shares += backend.added
    assert [bool(share[-4:].any()) for share in shares].count(True) == 1  # one rank alone has the pair
    for rank in range(2):
        backend = Tokens(size=2, rank=rank, total=shares[0] + shares[1])
        with pytest.raises(FloatingPointError, match="p2/0 against p2/1"):
            take_step(backend, DPO(), batch, limits=Limits(10**6, 2), lr=0.1)  # type: ignore[arg-type]
        assert backend.discarded


def test_a_gradient_that_is_not_finite_names_the_batch() -> None:
    backend = Tokens(norm=float("inf"))
    with pytest.raises(
        FloatingPointError, match=r"norm is inf, though every loss is finite, for 9 pairs: p0.*; and 1 more"
    ):
        take_step(backend, DPO(), batch_of(0, [1.0] * 9), limits=Limits(10**6, 4), lr=0.1)  # type: ignore[arg-type]


def test_the_sums_come_with_the_weight_of_the_batch() -> None:
    sums, norm = take_step(Tokens(), DPO(), batch_of(0, [0.5, 3.0]), limits=Limits(10**6, 4), lr=0.1)  # type: ignore[arg-type]
    assert isinstance(sums, Sums)
    assert sums.weight == 3.5
    assert norm == 1.0
