"""How long rounds will take, from those of a run that is done."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rlhf_flow.capacity.wall_time import Seconds

NAMES = ("sample", "score", "mismatch", "select", "anchor", "learn", "publish", "evaluate")
STAGES = st.fixed_dictionaries({name: st.floats(0, 100) for name in NAMES})


@given(stages=STAGES)
def test_one_round_ahead_whatever_is_shorter_costs_nothing(stages: dict[str, float]) -> None:
    drawing = stages["sample"] + stages["score"]
    learning = sum(stages[name] for name in ("mismatch", "select", "anchor", "learn", "publish"))
    one_by_one = Seconds(stages, "run", rounds=3)
    ahead = Seconds(stages, "run", rounds=3, ahead=True)
    assert one_by_one.round == pytest.approx(drawing + learning + stages["evaluate"])
    assert ahead.round == pytest.approx(max(drawing, learning) + stages["evaluate"])
    assert ahead.total == 3 * ahead.round


def test_stages_that_a_run_did_not_have_take_no_time() -> None:
    assert Seconds({"learn": 2.0}, "run", rounds=1, ahead=True).round == 2.0
