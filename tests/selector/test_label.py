from __future__ import annotations

import pytest

from rlhf_flow.selector.label import coin, labelled
from rlhf_flow.types import Message, Prompt
from tests.selector.worlds import response

PROMPT = Prompt("q0", (Message("user", "?"),), tokens=(1,))
A, B = response(0), response(1)


@pytest.mark.parametrize(
    ("kind", "wins", "bucket", "preference", "first"),
    [
        ("hard", 0.8, "used", 1.0, A.id),
        ("hard", 0.3, "used", 1.0, B.id),
        ("hard", 0.5, "tie", None, None),
        ("soft", 0.8, "used", 0.8, A.id),
        ("soft", 0.3, "used", 0.7, B.id),
        ("soft", 0.5, "used_tie", 0.5, A.id),
        ("sampled", 0.5, "used_tie", 0.5, A.id),
        ("sampled", 1.0, "used", 1.0, A.id),
        ("sampled", 0.0, "used", 1.0, B.id),
        ("hard", float("nan"), "abstained", None, None),
        ("soft", float("nan"), "abstained", None, None),
    ],
)
def test_by_hand(kind: str, wins: float, bucket: str, preference: float | None, first: str | None) -> None:
    found, pair = labelled(kind, PROMPT, (A, B), wins=wins)
    assert found == bucket
    if preference is None:
        assert pair is None
    else:
        assert pair is not None and pair.prompt == "q0"
        assert (pair.first, pair.preference) == (first, pytest.approx(preference))
        assert {pair.first, pair.second} == {A.id, B.id}


def test_equal_tokens_are_no_pair_whatever_the_judge_says() -> None:
    assert labelled("hard", PROMPT, (A, response(1, tokens=[10])), wins=1.0) == ("identical", None)
    assert labelled("hard", PROMPT, (A, response(1, tokens=[10, 10])), wins=1.0)[0] == "used"


def test_a_sampled_label_follows_the_probability_and_the_seed_of_the_run() -> None:
    pairs = [(response(0, b=b), response(1, b=b)) for b in range(2000)]
    won = [labelled("sampled", PROMPT, sides, wins=0.8)[1].first == sides[0].id for sides in pairs]
    assert 0.77 < sum(won) / 2000 < 0.83  # three standard deviations
    assert won == [labelled("sampled", PROMPT, sides, wins=0.8)[1].first == sides[0].id for sides in pairs]
    assert coin(A, B) != coin(response(0, seed=7), response(1, seed=7))
