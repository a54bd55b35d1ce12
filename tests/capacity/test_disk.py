"""What stays on disk, against what a learner and `checkpoint.keep` leave there."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rlhf_flow.capacity.disk import disk
from rlhf_flow.capacity.model_shape import shape_of
from rlhf_flow.config.schema import Checkpoint
from rlhf_flow.specs import Place
from tests.support.configured import LLAMA_8B, WORK, configured
from tests.support.tiny import policy


def test_a_checkpoint_takes_what_the_files_of_a_learner_take(tmp_path: Path) -> None:
    """The moments of a learner that has not taken a step are not written: what is left is the weights."""
    from rlhf_flow.learner.torch import Torch
    from rlhf_flow.specs import Model

    folder = policy(tmp_path / "model")
    learner = Torch().open(Model(path=str(folder)), Place())
    learner.save_policy(tmp_path / "policy")
    learner.save_state(tmp_path / "learner")
    planned = disk(configured(), shape_of(str(folder)), WORK)
    assert (tmp_path / "policy" / "model.safetensors").stat().st_size == pytest.approx(planned.policy, rel=0.03)
    weights = sum(file.stat().st_size for file in (tmp_path / "learner").glob("*.safetensors"))
    assert weights == pytest.approx(planned.learner / 3, rel=0.03)


@settings(max_examples=20, deadline=None)
@given(keep=st.integers(1, 5), every=st.integers(1, 3), rounds=st.integers(1, 8))
def test_more_to_keep_never_takes_less_and_the_end_is_within_the_most(keep: int, every: int, rounds: int) -> None:
    def planned(keep: int) -> tuple[int, int]:
        config = replace(configured(), rounds=rounds, checkpoint=Checkpoint(keep=keep, every=every))
        found = disk(config, LLAMA_8B, WORK)
        return found.most, found.end

    most, end = planned(keep)
    assert end <= most
    assert planned(keep + 1) >= (most, end)


def test_checkpoints_inside_a_round_stay_until_it_is_learned() -> None:
    """512 pairs in batches of 64 are 8 steps: a commit every 2 of them leaves 3 before the last."""
    plain = disk(configured(), LLAMA_8B, WORK)
    stepped = disk(configured(**{"checkpoint.steps": 2}), LLAMA_8B, WORK)
    assert stepped.round - plain.round == 3 * plain.learner
