"""TensorBoard: every round once, however often the run was started and killed."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from rlhf_flow.observe.settings import ObservedRun
from rlhf_flow.observe.tensorboard import TensorBoard
from rlhf_flow.types import RoundRecord

pytest.importorskip("tensorboard")


def logged(run_dir: Path, tag: str) -> list[tuple[int, float]]:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    accumulator = EventAccumulator(str(run_dir / "tensorboard"))
    accumulator.Reload()
    return [(event.step, event.value) for event in accumulator.Scalars(tag)]


def test_each_round_is_logged_once_over_many_starts(tmp_path: Path, record: Callable[[int], RoundRecord]) -> None:
    first = TensorBoard.open(ObservedRun(tmp_path, [], {}))
    for round in (0, 1, 2):  # killed before round 2 was committed: nothing is closed
        first.round(record(round))
    second = TensorBoard.open(ObservedRun(tmp_path, [record(0), record(1)], {}))
    second.round(record(2))  # killed after the commit of round 3, before it was logged
    third = TensorBoard.open(ObservedRun(tmp_path, [record(round) for round in range(4)], {}))
    third.stage(4, "sample", 1, 10, "tokens")
    third.round(record(4))
    third.close()
    assert logged(tmp_path, "eval/kl") == [(round, float(round)) for round in range(5)]
    assert logged(tmp_path, "seconds/learn") == [(round, 3.0) for round in range(5)]
    first.close()
    second.close()
