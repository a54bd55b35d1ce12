"""`max_pairs` bounds the pairs of a prompt, whatever the answers and the scores are."""

from __future__ import annotations

from collections import Counter
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rlhf_flow.selector import PARTS
from rlhf_flow.types import Prompt, Response, Rollouts, SamplingParams, Scored

KEYS: dict[str, dict[str, Any]] = {
    "margin": {"floor": None, "margin": 1e-6, "student_margin": 1e-6},
    "cross": {"first": "a", "second": "b"},
}


def responses_of(counts: dict[str, int], words: list[int]) -> tuple[Response, ...]:
    return tuple(
        Response(
            f"1/{name}/{k}/p", np.array([words.pop()]), "", None, False, SamplingParams(name, n=n), k, "", "policy"
        )
        for name, n in counts.items()
        for k in range(n)
    )


@pytest.mark.parametrize("name", PARTS)
@settings(max_examples=40, deadline=None)
@given(data=st.data())
def test_no_selection_exceeds_the_bound(name: str, data: st.DataObject) -> None:
    counts = {"a": data.draw(st.integers(1, 4)), "b": data.draw(st.integers(0 if name == "only_pair" else 1, 4))}
    if name == "only_pair":
        counts = {"a": 1, "b": 1}
    if name == "tournament":
        counts = {"a": 2, "b": 2}
    total = sum(counts.values())
    among = None if name in ("cross", "only_pair", "tournament") else data.draw(st.sampled_from([None, ["a"]]))
    selector = PARTS[name](
        **KEYS.get(name, {}),
        label=data.draw(st.sampled_from(["hard"] if name == "margin" else ["hard", "soft", "sampled"])),
        identical=data.draw(st.sampled_from(["keep", "drop"])),
        among=among,
    )
    words = data.draw(st.lists(st.integers(0, 3), min_size=total, max_size=total))
    utility = np.array([data.draw(st.lists(st.integers(-3, 3), min_size=total, max_size=total))], dtype=float)
    wins = 1 / (1 + np.exp(utility[:, None, :] - utility[:, :, None]))
    scored = Scored(Rollouts(1, (Prompt("p", (), (0,)),), (responses_of(counts, words),)), utility, wins)
    assert len(selector.select(scored).pairs) <= selector.max_pairs(Counter(counts))


@pytest.mark.parametrize(
    ("name", "pairs"), [("best_and_worst", 1), ("random", 1), ("all_pairs", 10), ("margin", 10), ("cross", 6)]
)
def test_the_bound_is_reached(name: str, pairs: int) -> None:
    assert PARTS[name](**KEYS.get(name, {})).max_pairs({"a": 2, "b": 3}) == pairs


@pytest.mark.parametrize("name", ["best_and_worst", "only_pair", "tournament"])
def test_one_pair_a_prompt(name: str) -> None:
    assert PARTS[name]().max_pairs({"a": 2}) == 1
