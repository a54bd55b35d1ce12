"""An ensemble is its members, combined; each of them is loaded once and scores as it would alone."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from transformers import AutoModelForSequenceClassification

from rlhf_flow.scorer.models.ensemble import Ensemble, EnsembleJudge
from rlhf_flow.scorer.models.reward_model import RewardModel
from rlhf_flow.specs import Place
from rlhf_flow.types import Rollouts, Scored
from tests.scorer.conftest import Checkpoint, rollouts

pytestmark = pytest.mark.slow

ASKED = rollouts(["a cat", "", "a dog and a cat", "a cat"], ["why", "x" * 70, "日本語", "no"])


@pytest.fixture(scope="module")
def members(checkpoint: Checkpoint) -> list[RewardModel]:
    """Three reward models of one architecture with other heads, one of them scaled up, and one that reads less."""
    made = []
    for seed, factor in enumerate((1.0, 1.0, 20.0)):
        path = checkpoint()
        model = AutoModelForSequenceClassification.from_pretrained(path)
        torch.manual_seed(seed)
        with torch.no_grad():
            model.score.weight.normal_(std=0.3 * factor)
        model.save_pretrained(path)
        made.append(RewardModel(path))
    return [*made[:2], replace(made[2], max_tokens=40)]


@pytest.fixture(scope="module")
def alone(members: list[RewardModel]) -> np.ndarray:
    """[M, B, N]"""
    return np.stack([member.open(Place()).score(ASKED).utility for member in members]).astype(np.float64)


@pytest.mark.parametrize(
    ("fields", "combined"),
    [
        ({}, lambda z: sum(z) / 3),
        ({"combine": "min"}, lambda z: np.minimum(np.minimum(z[0], z[1]), z[2])),
        ({"combine": "pessimistic"}, lambda z: sum(z) / 3 - np.sqrt(sum((one - sum(z) / 3) ** 2 for one in z) / 3)),
        ({"combine": "pessimistic", "k": 0.0}, lambda z: sum(z) / 3),
    ],
    ids=["mean", "min", "pessimistic", "k=0"],
)
def test_it_is_the_mean_the_worst_or_the_mean_less_the_spread_of_what_each_member_says_alone(
    fields: dict[str, Any], combined: Any, members: list[RewardModel], alone: np.ndarray
) -> None:
    scored = Ensemble(members, **fields).open(Place()).score(ASKED)
    expected = combined(alone)
    np.testing.assert_allclose(scored.utility, expected, rtol=1e-5)
    gap = expected[0, 0] - expected[0, 2]
    np.testing.assert_allclose(scored.wins[0, 0, 2], 1 / (1 + np.exp(-gap)), atol=1e-5)
    for m, values in enumerate(alone):
        np.testing.assert_allclose(scored.aspects[f"member/{m}"], values, rtol=1e-5)
    np.testing.assert_allclose(scored.aspects["std"], alone.std(axis=0), rtol=1e-4)
    assert scored.counts == {"judge/queries": 7, "judge/truncated": 2}, "the last member alone cuts"


def test_shifts_and_scales_are_those_of_the_members_and_of_no_batch(
    members: list[RewardModel], alone: np.ndarray
) -> None:
    shifts, scales = [0.5, -1.0, 3.0], [1.0, 2.0, 20.0]
    judge = Ensemble(members, "min", shifts=shifts, scales=scales).open(Place())
    whole = judge.score(ASKED)
    z = [(alone[m] - shifts[m]) / scales[m] for m in range(3)]
    np.testing.assert_allclose(whole.utility, np.min(z, axis=0), rtol=1e-5)
    for b, (prompt, group) in enumerate(zip(ASKED.prompts, ASKED.responses, strict=True)):
        for n, response in enumerate(group):
            one = judge.score(Rollouts(1, (prompt,), ((response,),)))
            np.testing.assert_allclose(one.utility[0, 0], whole.utility[b, n], rtol=1e-5)


class Fixed:
    """A reward model that says what it was told to."""

    def __init__(self, utility: np.ndarray) -> None:
        self.utility = utility

    def score(self, asked: Rollouts) -> Any:
        return Scored(asked, self.utility, np.zeros((1, 3, 3), dtype=np.float32))

    def close(self) -> None:
        """Nothing is held."""


SCORE = st.floats(-50, 50, width=32)


@given(st.lists(st.lists(SCORE, min_size=3, max_size=3), min_size=2, max_size=5), st.floats(0, 3), st.randoms())
def test_the_order_of_members_changes_nothing_and_pessimism_never_pays(
    scores: list[list[float]], k: float, random: Any
) -> None:
    asked = rollouts(["a", "b", "c"])

    def utility(rows: list[list[float]], combine: str) -> np.ndarray:
        spec = Ensemble([RewardModel("nowhere")] * len(rows), combine, k=k)
        judges = tuple(Fixed(np.array([row], dtype=np.float32)) for row in rows)
        return EnsembleJudge(spec, judges).score(asked).utility

    turned = random.sample(scores, len(scores))
    for combine in ("mean", "min", "pessimistic"):
        np.testing.assert_allclose(utility(scores, combine), utility(turned, combine), rtol=1e-5, atol=1e-4)
    mean = utility(scores, "mean")
    assert (utility(scores, "min") <= mean + 1e-4).all()
    assert (utility(scores, "pessimistic") <= mean + 1e-4).all()
    np.testing.assert_allclose(utility([scores[0]] * 2, "pessimistic"), [scores[0]], rtol=1e-6, atol=1e-6)


def test_a_member_that_is_no_reward_model_is_named(members: list[RewardModel], checkpoint: Checkpoint) -> None:
    spec = Ensemble([members[0], RewardModel(checkpoint(labels=2))])
    for refuse in (spec.check, lambda: spec.open(Place())):
        with pytest.raises(ValueError, match=r"scorer\.members\.1: .*num_labels=1 .* has 2"):
            refuse()


def test_the_fingerprint_is_of_all_members_in_their_order(members: list[RewardModel]) -> None:
    one, two, three = members
    prints = {Ensemble(list(some)).fingerprint() for some in ((one, two), (two, one), (one, three), (one, two, three))}
    assert len(prints) == 4
    assert Ensemble([one, two], "min").fingerprint() in prints, "the fields say the rest"


@pytest.mark.parametrize(
    ("fields", "told"),
    [
        ({"members": []}, r"scorer\.members must be at least two reward models, got \[\]"),
        ({"combine": "max"}, r"scorer\.combine must be one of mean, min, pessimistic, got 'max'"),
        ({"k": -1.0}, r"scorer\.k must be a number >= 0, got -1\.0"),
        ({"shifts": [1.0]}, r"scorer\.shifts must be 2 finite numbers, one for each member, or none, got \[1\.0\]"),
        ({"shifts": [1.0, float("nan")]}, r"scorer\.shifts must be 2 finite numbers"),
        ({"scales": [1.0, 0.0]}, r"scorer\.scales must be .*each > 0, got \[1\.0, 0\.0\]"),
    ],
    ids=str,
)
def test_values_that_make_no_ensemble_are_refused(fields: dict[str, Any], told: str) -> None:
    two = [RewardModel("a"), RewardModel("b")]
    with pytest.raises(ValueError, match=told):
        Ensemble(**{"members": two, **fields})
