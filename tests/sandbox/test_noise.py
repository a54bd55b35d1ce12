import random
from dataclasses import asdict

from hypothesis import given
from hypothesis import strategies as st

from rlhf_flow.sandbox.noise import FLIP, SCALE, mishear, prefers
from rlhf_flow.sandbox.request import every_request

worths = st.floats(0, 1)


@given(worths, worths, st.integers())
def test_the_same_judge_on_the_same_pair_says_the_same(first, second, seed):
    assert prefers(first, second, random.Random(seed)) == prefers(first, second, random.Random(seed))


def test_judges_err_as_often_as_stated():
    rng = random.Random(0)
    n = 20_000
    clear = sum(prefers(1.0, 0.0, rng) for _ in range(n)) / n
    even = sum(prefers(0.5, 0.5, rng) for _ in range(n)) / n
    assert SCALE > 5  # so that a clear case is missed by flips alone
    assert abs(clear - (1 - FLIP)) < 0.01
    assert abs(even - 0.5) < 0.015


@given(st.sampled_from(every_request()), st.integers())
def test_a_request_is_misheard_in_one_thing(asked, seed):
    heard = asdict(mishear(asked, random.Random(seed)))
    assert sum(heard[name] != value for name, value in asdict(asked).items()) == 1
    assert (heard["tone"], heard["reason"]) == (asked.tone, asked.reason)
