"""How far an answer may be from the policy that learns from it."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from rlhf_flow.metrics.off_policy import OffPolicy, distance, measures

LOGPS = st.lists(st.floats(-20, 0), min_size=1, max_size=12)


@given(pairs=st.lists(st.tuples(st.floats(-20, 0), st.floats(-20, 0)), min_size=1, max_size=12))
def test_a_distance_is_the_mean_of_the_sizes_and_the_sum_of_the_differences(pairs: list[tuple[float, float]]) -> None:
    sampled, learned = (np.array(side, dtype=np.float32) for side in zip(*pairs, strict=True))
    found = distance(sampled, learned)
    off = [float(pi) - float(mu) for mu, pi in zip(sampled, learned, strict=True)]
    assert found.mismatch == pytest.approx(sum(abs(each) for each in off) / len(off), abs=1e-12)
    assert found.divergence == pytest.approx(-sum(off), abs=1e-9)


@given(logps=LOGPS)
def test_a_policy_has_no_distance_from_itself(logps: list[float]) -> None:
    same = np.array(logps, dtype=np.float32)
    assert (distance(same, same).mismatch, distance(same, same).divergence) == (0, 0)


def test_the_divergence_of_many_answers_is_the_kl_from_the_sampler() -> None:
    mu, pi = np.array([0.7, 0.2, 0.1]), np.array([0.5, 0.3, 0.2])
    drawn = np.random.default_rng(0).choice(3, size=20_000, p=mu)
    found = measures([distance(np.log(mu[[y]]), np.log(pi[[y]])) for y in drawn])
    assert found["mismatch/kl"] == pytest.approx(float((mu * np.log(mu / pi)).sum()), abs=0.01)
    assert found["mismatch/max"] == pytest.approx(np.abs(np.log(pi / mu)).max())
    assert found["mismatch/responses"] == 20_000
    assert measures([]) == {}


def test_a_bucket_says_which_bound_an_answer_is_beyond() -> None:
    gate = OffPolicy(max_staleness=1, max_mismatch=0.5)
    assert [gate.bucket(1, 0.5), gate.bucket(None, None), gate.bucket(0, None)] == [None] * 3
    assert [gate.bucket(2, 0.1), gate.bucket(2, 0.6)] == ["stale"] * 2
    assert [gate.bucket(0, 0.51), gate.bucket(None, float("nan"))] == ["mismatched"] * 2
    assert OffPolicy().bucket(99, 99.0) is None


@pytest.mark.parametrize(
    ("fields", "told"),
    [
        ({"max_staleness": -1}, r"off_policy\.max_staleness must be >= 0"),
        ({"max_mismatch": 0.0}, r"off_policy\.max_mismatch must be > 0"),
        ({"max_mismatch": float("nan")}, r"off_policy\.max_mismatch must be > 0"),
        ({"exceeding": "warn"}, r"off_policy\.exceeding must be drop or stop, got 'warn'"),
        ({"measured": -1}, r"off_policy\.measured must be >= 0"),
    ],
)
def test_bounds_that_make_no_sense_are_refused(fields: dict, told: str) -> None:
    with pytest.raises(ValueError, match=told):
        OffPolicy(**fields)
