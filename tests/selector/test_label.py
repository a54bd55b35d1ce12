from __future__ import annotations

import pytest

from rlhf_flow.selector.label import Label, coin, labelled
from tests.support.worlds import response

A, B = response(0), response(1)
SAME = response(1, tokens=[10])


@pytest.mark.parametrize(
    ("kind", "wins", "bucket", "label"),
    [
        ("hard", 0.8, "used", Label(False, 1.0)),
        ("hard", 0.3, "used", Label(True, 1.0)),
        ("hard", 0.5, "tie", None),
        ("soft", 0.8, "used", Label(False, 0.8)),
        ("soft", 0.3, "used", Label(True, 0.7)),
        ("soft", 0.5, "used_tie", Label(False, 0.5)),
        ("sampled", 0.5, "used_tie", Label(False, 0.5)),
        ("sampled", 1.0, "used", Label(False, 1.0)),
        ("sampled", 0.0, "used", Label(True, 1.0)),
        ("hard", float("nan"), "abstained", None),
        ("soft", float("nan"), "abstained", None),
    ],
)
def test_by_hand(kind: str, wins: float, bucket: str, label: Label | None) -> None:
    found, made = labelled(kind, A, B, wins=wins)
    assert found == bucket
    assert made == (label and Label(label.swapped, pytest.approx(label.preference)))


@pytest.mark.parametrize(
    ("kind", "wins", "preference"),
    [("hard", 0.8, 1.0), ("hard", 0.3, 0.0), ("soft", 0.8, 0.8), ("soft", 0.3, 0.3), ("sampled", 0.0, 0.0)],
)
def test_the_loser_may_stay_first_with_what_that_makes_of_its_preference(
    kind: str, wins: float, preference: float
) -> None:
    assert labelled(kind, A, B, wins=wins, keep_order=True) == ("used", Label(False, preference))


def test_kept_order_is_the_same_label_said_of_the_other_side() -> None:
    for k in range(50):
        one, other = response(k), response(k + 1)
        _, kept = labelled("sampled", one, other, wins=0.4, keep_order=True)
        _, ordered = labelled("sampled", one, other, wins=0.4)
        assert ordered == Label(kept.preference == 0, 1.0)


def test_equal_tokens_are_no_pair_whatever_the_judge_says() -> None:
    assert labelled("hard", A, SAME, wins=1.0) == ("identical", None)
    assert labelled("hard", A, response(1, tokens=[10, 10]), wins=1.0)[0] == "used"


@pytest.mark.parametrize("kind", ["hard", "soft", "sampled"])
@pytest.mark.parametrize("wins", [1.0, 0.5, float("nan")])
def test_or_they_are_a_pair_that_nobody_wins(kind: str, wins: float) -> None:
    assert labelled(kind, A, SAME, wins=wins, keep_identical=True) == ("used_tie", Label(False, 0.5))


def test_a_sampled_label_follows_the_probability_and_the_seed_of_the_run() -> None:
    pairs = [(response(0, b=b), response(1, b=b)) for b in range(2000)]
    lost = [labelled("sampled", *both, wins=0.8)[1].swapped for both in pairs]
    assert 0.17 < sum(lost) / 2000 < 0.23  # three standard deviations
    assert lost == [labelled("sampled", *both, wins=0.8)[1].swapped for both in pairs]
    assert coin(A, B) != coin(response(0, seed=7), response(1, seed=7))


def test_a_side_that_never_wins_never_does(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("rlhf_flow.selector.label.derive", lambda *_: 0)  # the smallest number that a coin can show
    assert labelled("sampled", A, B, wins=0.0) == ("used", Label(True, 1.0))


@pytest.mark.parametrize("kind", ["hard", "soft", "sampled"])
def test_a_verdict_that_is_too_close_is_not_taught(kind: str) -> None:
    for p in (0.45, 0.55):
        assert labelled(kind, A, B, wins=p, margin=0.1) == ("low_margin", None)
    assert labelled(kind, A, B, wins=0.5, margin=0.1) == ("tie", None)
    assert labelled(kind, A, B, wins=0.875, tied=True, margin=0.1) == ("tie", None)
    assert labelled(kind, A, B, wins=0.625, margin=0.125)[0] == "used", "as far as that is far enough"
    assert labelled(kind, A, B, wins=float("nan"), margin=0.1) == ("abstained", None)
    assert labelled(kind, A, SAME, wins=0.55, margin=0.1, keep_identical=True)[0] == "used_tie"
