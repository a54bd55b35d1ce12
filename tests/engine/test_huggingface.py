"""The plain engine's own business: its settings, and its sampler against exact probabilities."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from rlhf_flow.engine.huggingface import HuggingFace, choose, penalised
from rlhf_flow.specs import Place
from rlhf_flow.types import Prompt, SamplingParams
from rlhf_flow.weights.source import InMemoryWeights

pytestmark = pytest.mark.slow

if TYPE_CHECKING:
    from tests.engine.conftest import World


@pytest.mark.parametrize(
    ("field", "value", "rule"), [("batch", 0, ">= 1"), ("max_model_len", 1, ">= 2"), ("probe_tolerance", -1.0, "> 0")]
)
def test_impossible_settings_are_refused(field: str, value: object, rule: str) -> None:
    with pytest.raises(ValueError, match=rf"engine\.{field} must be {rule}, got {value}"):
        HuggingFace(**{field: value})


def test_more_positions_than_the_model_has_are_refused(world: World) -> None:
    with pytest.raises(ValueError, match=r"must not exceed the 128 positions .* got 129"):
        HuggingFace(max_model_len=129).open(world.model, Place())


def test_the_batch_size_changes_no_answer(world: World, prompts: list[Prompt]) -> None:
    draw = SamplingParams(n=3, max_tokens=24)
    answers = [
        [
            response.tokens.tolist()
            for group in HuggingFace(batch=batch)
            .open(world.model, Place())
            .generate(prompts, world.start, draw, round=1, seed=7)
            .responses
            for response in group
        ]
        for batch in (1, 7, 1000)
    ]
    assert answers[0] == answers[1] == answers[2]


def test_nan_weights_raise(world: World, prompts: list[Prompt]) -> None:
    engine = HuggingFace().open(world.model, Place())
    state = {name: tensor * float("nan") for name, tensor in world.state(1).items()}
    broken = replace(world.policy(1), sha256="f" * 64, weights=InMemoryWeights(state), probe=None)
    with pytest.raises(RuntimeError, match="logits are NaN"):
        engine.generate(prompts, broken, SamplingParams(n=2, max_tokens=8), round=1, seed=7)


probabilities = st.lists(st.floats(0.01, 1.0), min_size=2, max_size=12).map(lambda raw: np.array(raw) / sum(raw))


@given(probabilities, st.floats(0.3, 3.0), st.integers(0, 12), st.floats(0.05, 1.0))
def test_a_grid_of_uniforms_reproduces_the_exact_distribution(
    probs: np.ndarray, temperature: float, top_k: int, top_p: float
) -> None:
    """Over an even grid of M numbers in [0, 1) each token is chosen M p times, give or take one."""
    grid = 2000
    uniforms = (torch.arange(grid, dtype=torch.float64) + 0.5) / grid
    logits = torch.tensor(np.log(probs), dtype=torch.float32).expand(grid, -1)
    draw = SamplingParams(temperature=temperature, top_k=top_k, top_p=top_p)
    seen = np.bincount(choose(logits, uniforms, draw).numpy(), minlength=len(probs))

    weights = np.exp(logits[0].double().numpy() / temperature)
    order = np.argsort(-weights, kind="stable")[: top_k or len(probs)]
    mass = weights[order] / weights[order].sum()
    kept = order[np.cumsum(mass) - mass < top_p]
    exact = np.zeros(len(probs))
    exact[kept] = weights[kept] / weights[kept].sum()
    # A boundary of top_p that rounding may decide either way moves one whole token: leave those cases out.
    if np.abs(np.cumsum(mass) - top_p).min() > 1e-9:
        assert np.abs(seen - grid * exact).max() <= 1 + 1e-6


def test_temperature_zero_takes_the_likeliest() -> None:
    logits = torch.tensor([[0.0, 3.0, 1.0], [2.0, 1.0, 0.0]])
    assert choose(
        logits, torch.tensor([0.99, 0.99], dtype=torch.float64), SamplingParams(n=1, temperature=0)
    ).tolist() == [1, 0]


def test_min_p_keeps_the_tokens_within_a_share_of_the_likeliest() -> None:
    grid = 1000
    uniforms = (torch.arange(grid, dtype=torch.float64) + 0.5) / grid
    logits = torch.log(torch.tensor([0.5, 0.3, 0.15, 0.05])).expand(grid, -1)
    seen = np.bincount(choose(logits, uniforms, SamplingParams(min_p=0.25)).numpy(), minlength=4)
    assert np.abs(seen - grid * np.array([0.5, 0.3, 0.15, 0.0]) / 0.95).max() <= 1
    both = np.bincount(
        choose(logits, uniforms, SamplingParams(min_p=0.25, top_p=0.5)).numpy(), minlength=4
    )  # 0.5 / 0.95 > 0.5
    assert both.tolist() == [grid, 0, 0, 0]


def test_a_penalty_is_that_of_ctrl() -> None:
    logits, seen = torch.tensor([[2.0, -2.0, 2.0, -2.0]]), torch.tensor([[True, True, False, False]])
    assert penalised(logits, seen, 4.0).tolist() == [[0.5, -8.0, 2.0, -2.0]]
    assert penalised(logits, seen, None) is logits
