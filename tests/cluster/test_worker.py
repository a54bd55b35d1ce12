"""What a process of a worker answers."""

from __future__ import annotations

from typing import Any

from rlhf_flow.cluster.worker import Worker


class Rank:
    def __init__(self) -> None:
        self.calls: list[int] = []

    def logps(self, number: int) -> list[float]:
        self.calls.append(number)
        return [0.0] * number


class Opened(Worker):
    def __init__(self, worker: Any) -> None:
        self.worker, self.failure = worker, None


def test_only_rank_0_returns_what_a_call_returns() -> None:
    first, other = Opened(Rank()), Opened(Rank())
    assert first.call("logps", (3,), {}) == [0.0] * 3
    assert other.follow("logps", (3,)) is None  # type: ignore[func-returns-value]
    assert other.worker.calls == [3]
