"""Records as the ledger hands them to observers."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from rlhf_flow.types import RoundRecord


@pytest.fixture
def record() -> Callable[[int], RoundRecord]:
    """record(round) -> the record of that round; each has values of its own."""

    def make(round: int) -> RoundRecord:
        metrics = {"eval/win_rate": 0.5 + round / 10, "eval/kl": float(round), "seconds/round": 65.0}
        return RoundRecord(round=round, policy="", plan={}, metrics=metrics, seconds={"learn": 3.0}, files={})

    return make
