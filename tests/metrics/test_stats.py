"""Intervals of statistics, against how often they hold a known truth."""

from __future__ import annotations

import numpy as np
import pytest

from rlhf_flow.metrics.stats import ratio_with_interval


def test_the_interval_of_a_ratio_is_over_its_units() -> None:
    rng = np.random.default_rng(0)
    covered = 0
    for _ in range(400):
        counts = rng.integers(1, 9, size=60)
        sums = counts * 2.0 + rng.normal(size=60) * counts**0.5
        found = ratio_with_interval("x", sums, counts)
        covered += found["x_low"] <= 2.0 <= found["x_high"]
    assert found["x"] == pytest.approx(sums.sum() / counts.sum())
    assert 0.92 <= covered / 400 <= 0.98
    assert ratio_with_interval("x", np.zeros(0), np.zeros(0)) == {}
