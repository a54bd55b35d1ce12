"""A plan names only versions that exist when its round begins."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rlhf_flow.protocols import Schedule
from rlhf_flow.schedule import EveryK, Fixed


def test_fixed_goes_on_from_the_round_before_and_keeps_the_start_as_reference() -> None:
    plan = Fixed().at(3, ())
    assert (plan.round, plan.init, plan.sampler, plan.anchors) == (3, 2, 2, {"reference": 0})


def test_every_k_renews_the_reference_after_each_k_rounds() -> None:
    assert [EveryK(2).at(round, ()).anchors["reference"] for round in range(1, 7)] == [0, 0, 2, 2, 4, 4]


def test_every_1_has_the_round_before_as_reference() -> None:
    assert [EveryK(1).at(round, ()).anchors["reference"] for round in (1, 2, 3)] == [0, 1, 2]


@given(schedule=st.one_of(st.just(Fixed()), st.integers(1, 20).map(EveryK)), round=st.integers(1, 200))
def test_every_version_is_older_than_the_round(schedule: Schedule, round: int) -> None:
    plan = schedule.at(round, ())
    assert all(0 <= version < round for version in (plan.init, plan.sampler, *plan.anchors.values()))


@given(k=st.integers(1, 20), round=st.integers(1, 200))
def test_the_reference_is_the_newest_multiple_of_k(k: int, round: int) -> None:
    reference = EveryK(k).at(round, ()).anchors["reference"]
    assert reference % k == 0
    assert reference + k >= round


def test_a_reference_cannot_be_renewed_every_0_rounds() -> None:
    with pytest.raises(ValueError, match=r"schedule\.k must be >= 1, got 0"):
        EveryK(0)
