"""Ranks that share each line of tokens learn what one process learns."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from rlhf_flow.learner.deepspeed import DeepSpeed
from rlhf_flow.learner.fsdp import FSDP
from rlhf_flow.learner.reward_head import Head
from rlhf_flow.learner.torch import Torch
from rlhf_flow.specs import Place
from tests.learner.test_ranks import spread
from tests.support import jobs
from tests.support.classroom import ADAMW, SGD, make_lesson, make_model, make_tables, policy_of
from tests.support.ranks import Ranks

pytestmark = pytest.mark.deepspeed


@pytest.mark.parametrize(
    ("size", "stage"),
    [("two", 2), ("four", "fsdp"), *(pytest.param("two", stage, marks=pytest.mark.soak) for stage in (3, "fsdp"))],
)
def test_ten_steps_end_in_the_same_weights(
    size: str, stage: int | str, request: pytest.FixtureRequest, tmp_path: Path
) -> None:
    ranks: Ranks = request.getfixturevalue(size)
    model = make_model(tmp_path / "model")
    start, tables = policy_of(model), make_tables(tmp_path / "round", prompts=37, longest=40)
    lesson = make_lesson(tmp_path, [tables], Torch(training=SGD).open(model, Place()), start)
    common = {"ranks": ranks.size, "sequence_ranks": 2, "training": replace(SGD, micro_batch=2)}
    spec = DeepSpeed(zero_stage=stage, **common) if isinstance(stage, int) else FSDP(**common)
    first, *others = ranks.run(jobs.train, spec, model, start, lesson, 10)
    plain = jobs.train(Place(), Torch(training=SGD), model, start, lesson, 10)
    assert spread(first, plain) <= 1e-6
    assert np.allclose(first.losses, plain.losses, rtol=0, atol=1e-5)
    assert all(other.policy == first.policy and other.metrics == first.metrics for other in others)


def test_other_weights_are_scored_as_by_one_process(two: Ranks, tmp_path: Path) -> None:
    model, other = make_model(tmp_path / "model"), policy_of(make_model(tmp_path / "other", seed=1), name="other")
    start, tables = policy_of(model), make_tables(tmp_path / "round", longest=40)
    lesson = make_lesson(tmp_path, [tables], Torch(training=SGD).open(model, Place()), start)
    wanted = sorted(tables.responses.read(["response"])["response"].to_pylist())
    arguments = (model, start, other, [tables.responses], wanted, lesson)
    first, second = two.run(jobs.score, FSDP(ranks=2, sequence_ranks=2, training=ADAMW), *arguments)
    plain = jobs.score(Place(), Torch(training=ADAMW), *arguments)
    for ours, theirs in ((first.start, plain.start), (first.other, plain.other), (first.spread, plain.spread)):
        for column in ours.column_names[2:]:
            pairs = zip(ours[column].to_pylist(), theirs[column].to_pylist(), strict=True)
            assert all(a == pytest.approx(b, abs=1e-4) for a, b in pairs)
    assert first.spread.equals(second.spread)


def test_heads_that_cannot_be_shared_out_are_refused(two: Ranks, tmp_path: Path) -> None:
    model = make_model(tmp_path / "model", keys=1)
    spec = FSDP(ranks=2, sequence_ranks=2, training=SGD)
    with pytest.raises(ValueError, match=r"4 query heads and 1 key heads\. Fix: learner\.sequence_ranks=1"):
        two.run(jobs.train, spec, model, policy_of(model), None, 0)


def test_impossible_settings_are_refused() -> None:
    with pytest.raises(ValueError, match=r"learner\.sequence_ranks must divide learner\.ranks=3, got 2"):
        FSDP(ranks=3, sequence_ranks=2)
    with pytest.raises(ValueError, match=r"must be 1 for a reward model"):
        DeepSpeed(ranks=2, sequence_ranks=2, head=Head(outputs=1))
