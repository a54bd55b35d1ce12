"""Errors with a remedy keep both parts."""

from __future__ import annotations

import pickle

from rlhf_flow.system.errors import ConfigError, reason


def test_the_text_has_the_problem_and_then_the_remedy() -> None:
    error = ConfigError("rounds=0: a run needs a round.", "rounds=1.")
    assert str(error) == "rounds=0: a run needs a round. Fix: rounds=1."
    assert isinstance(error, ValueError)


def test_an_error_survives_the_way_from_a_worker() -> None:
    copy = pickle.loads(pickle.dumps(ConfigError("a", "b")))
    assert (copy.problem, copy.remedy, str(copy)) == ("a", "b", "a. Fix: b.")


def test_a_reason_is_one_line_without_a_full_stop() -> None:
    assert reason(ValueError("offline.\n  Try again..")) == "offline. Try again"
    assert reason(MemoryError()) == "MemoryError"
