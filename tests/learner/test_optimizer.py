"""The optimizer moves weights as configured, at the rate of the schedule."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from rlhf_flow.learner.optimizer import LearningRate, Optimizer

KINDS = st.sampled_from(["constant", "linear", "cosine"])


@given(KINDS, st.floats(0, 0.9), st.floats(0, 1))
def test_the_factor_is_between_0_and_1(kind: str, warmup: float, progress: float) -> None:
    assert 0 <= LearningRate(kind, warmup).factor(progress) <= 1


@given(KINDS, st.floats(0.01, 0.9))
def test_the_factor_peaks_where_the_warmup_ends(kind: str, warmup: float) -> None:
    schedule = LearningRate(kind, warmup)
    assert schedule.factor(warmup / 2) == pytest.approx(0.5)
    assert schedule.factor(warmup) == pytest.approx(1)


@pytest.mark.parametrize(
    ("kind", "factor"), [("constant", 1.0), ("linear", 0.25), ("cosine", (1 - math.cos(math.pi / 4)) / 2)]
)
def test_the_factor_falls_as_its_name_says(kind: str, factor: float) -> None:
    assert LearningRate(kind, warmup=0.2).factor(0.8) == pytest.approx(factor)


@given(st.lists(st.integers(1, 9), min_size=1, max_size=5))
def test_progress_rises_from_round_to_round_or_starts_anew(steps: list[int]) -> None:
    rounds = len(steps)
    whole = [
        LearningRate(span="run").progress(step, of, round=round, rounds=rounds)
        for round, of in enumerate(steps, start=1)
        for step in range(of)
    ]
    assert whole == sorted(set(whole))
    assert 0 < whole[0] <= whole[-1] < 1
    first = [LearningRate(span="round").progress(0, 4, round=round, rounds=rounds) for round in range(1, rounds + 1)]
    assert set(first) == {0.125}


def test_weight_decay_leaves_norms_and_biases_alone() -> None:
    model = torch.nn.Sequential(torch.nn.Linear(3, 3), torch.nn.LayerNorm(3))
    groups = Optimizer(weight_decay=0.1).build(model).param_groups
    assert [(len(group["params"]), group["weight_decay"]) for group in groups] == [(1, 0.1), (3, 0.0)]


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Optimizer(name="adam"), "optimizer.name must be adamw or sgd, got 'adam'"),
        (lambda: Optimizer(lr=0.0), "optimizer.lr must be > 0, got 0.0"),
        (lambda: Optimizer(betas=[0.9]), r"optimizer.betas must be two numbers in \[0, 1\), got \[0.9\]"),
        (lambda: Optimizer(eps=0.0), "optimizer.eps must be > 0"),
        (lambda: Optimizer(weight_decay=-0.1), "optimizer.weight_decay must be >= 0"),
        (lambda: LearningRate(kind="step"), "schedule.kind must be constant, linear or cosine, got 'step'"),
        (lambda: LearningRate(warmup=100), "schedule.warmup must be in .* got 100"),
        (lambda: LearningRate(span="epoch"), "schedule.span must be round or run"),
    ],
)
def test_a_wrong_value_is_refused_by_name(make: object, message: str) -> None:
    assert callable(make)
    with pytest.raises(ValueError, match=message):
        make()
