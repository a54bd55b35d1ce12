from __future__ import annotations

from itertools import combinations

import pytest

from rlhf_flow.selector.all_pairs import AllPairs
from tests.support.worlds import one, response, scored, sides


@pytest.mark.parametrize("n", [2, 3, 6])
def test_everyone_meets_everyone_once(n: int) -> None:
    world = one([float(n - k) for k in range(n)])
    assert sides(AllPairs().select(world)) == [(i, j, 1.0) for i, j in combinations(range(n), 2)]


def test_the_weight_of_a_pair_is_how_often_it_would_be_drawn() -> None:
    masses = [0.5, 0.3, 0.2]
    world = scored([[response(k, mass=mass) for k, mass in enumerate(masses)]], [[0.3, 0.1, 0.2]])
    pairs = AllPairs(label="soft").select(world).pairs
    assert [pair.weight for pair in pairs] == pytest.approx([0.15, 0.1, 0.06])


def test_a_response_has_the_bucket_of_its_most_useful_pair() -> None:
    same = [response(0, tokens=[5]), response(1, tokens=[5]), response(2), response(3), response(4, truncated=True)]
    selection = AllPairs().select(scored([same], [[1.0, 1.0, 1.0, 2.0, 9.0]]))
    assert selection.pair_counts == {"identical": 1, "tie": 2, "used": 3}
    assert list(selection.response_buckets.values()) == ["used", "used", "used", "used", "truncated"]
    level = AllPairs().select(scored([same[:3]], [[1.0, 1.0, 1.0]]))
    assert list(level.response_buckets.values()) == ["tie", "tie", "tie"]
    assert list(AllPairs().select(scored([same[:2]], [[1.0, 1.0]])).response_buckets.values()) == ["identical"] * 2


def test_equal_answers_may_be_kept() -> None:
    world = scored([[response(0, tokens=[5]), response(1, tokens=[5])]], [[1.0, 1.0]])
    kept = AllPairs(identical="keep").select(world)
    assert sides(kept) == [(0, 1, 0.5)]
    assert kept.pair_counts == {"used_tie": 1}
