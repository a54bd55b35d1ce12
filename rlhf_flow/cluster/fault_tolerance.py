"""How long a run waits for its nodes and workers, and how many deaths of workers it survives."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class FaultTolerance:
    """What a run puts up with before it gives up."""

    start_seconds: float = 300.0  # longest wait for all nodes to have joined, and again for all workers to be up
    silence_seconds: float = 120.0  # without a sign of life, after which a worker counts as hanging and is ended
    deaths: int = 3  # of workers that a run survives; 0: the first one stops it, resumably

    def __post_init__(self) -> None:
        for key, rule, ok in (
            ("start_seconds", "> 0", self.start_seconds > 0),
            ("silence_seconds", ">= 10, for a busy machine is silent too", self.silence_seconds >= 10),
            ("deaths", ">= 0 (0: the first one stops the run)", self.deaths >= 0),
        ):
            if not ok:
                raise ValueError(f"cluster.fault_tolerance.{key} must be {rule}, got {vars(self)[key]}")
