from __future__ import annotations

import numpy as np
import pytest

from rlhf_flow.scorer.functions.comparison import Comparison
from rlhf_flow.specs import Place
from rlhf_flow.types import Rollouts, Scored
from tests.scorer.conftest import rollouts
from tests.support import comparisons

HERE = "tests.support.comparisons"


def scored(function: str, asked: Rollouts, **fields: str) -> Scored:
    spec = Comparison(f"{HERE}.{function}", **fields)
    spec.check()
    return spec.open(Place()).score(asked)


def test_a_cycle_comes_through() -> None:
    judged = scored("circle", rollouts(["rock", "paper", "scissors"]))
    expected = [[0.5, 0.1, 0.8], [0.9, 0.5, 0.3], [0.2, 0.7, 0.5]]
    np.testing.assert_allclose(judged.wins[0], expected, atol=1e-7)
    np.testing.assert_allclose(judged.utility[0], np.mean(expected, axis=1), atol=1e-7)
    assert judged.counts == {"judge/queries": 3, "judge/asked": 3, "judge/verdicts": 3, "judge/abstained": 0}
    assert judged.batch_metrics == {}


def test_both_orders_are_asked_and_equal_texts_are_not() -> None:
    comparisons.asked.clear()
    judged = scored("circle", rollouts(["rock", "paper", "rock", "rock"]))
    assert sorted(comparisons.asked) == [("paper", "rock"), ("rock", "paper")]
    assert judged.counts["judge/queries"] == 1
    np.testing.assert_allclose(judged.wins[0, 1], [0.9, 0.5, 0.9, 0.9], atol=1e-7)
    assert judged.wins[0, 0, 2] == judged.wins[0, 2, 3] == 0.5


def test_both_views_add_up_to_one_exactly() -> None:
    texts = ["x" * k for k in range(0, 40, 3)]
    for function in ("longer", "nearly"):
        wins = scored(function, rollouts(texts)).wins
        assert (wins + wins.swapaxes(1, 2) == 1).all()


def test_what_does_not_add_up_names_the_responses_and_the_way_out() -> None:
    with pytest.raises(
        ValueError, match=r"add up to 1; for responses '1/policy/1/q0' and '1/policy/0/q0' it gave 0.75"
    ):
        scored("first_is_better", rollouts(["b", "a"]))


def test_an_abstention_is_left_out_of_the_utility() -> None:
    judged = scored("shy", rollouts(["a", "b", "?", "??", "!"]))
    assert np.isnan(judged.wins[0, 2, [0, 1, 3, 4]]).all() and np.isnan(judged.wins[0, [0, 1, 2, 4], 3]).all()
    assert np.isnan(judged.wins[0, 4, :4]).all(), "in either order"
    assert judged.wins[0, 0, 1] == 1 and judged.wins[0, 2, 2] == 0.5
    np.testing.assert_array_equal(judged.utility[0], [0.75, 0.25, 0.5, 0.5, 0.5])
    assert judged.counts == {"judge/queries": 10, "judge/asked": 10, "judge/verdicts": 1, "judge/abstained": 9}


def test_in_a_knockout_only_those_who_meet_are_compared() -> None:
    spec = Comparison(f"{HERE}.longer", pairs="knockout")
    judged = spec.open(Place()).score(rollouts(["x" * k for k in (3, 1, 7, 2, 8, 6, 4, 5)]))
    assert judged.counts["judge/queries"] == 28 - judged.counts["judge/spared"] <= 11
    assert judged.utility[0].argmax() == 4 and judged.utility[0].argmin() == 1
    assert np.isnan(judged.wins[0]).sum() == 2 * judged.counts["judge/spared"]
    np.testing.assert_array_equal(judged.pair_flags["unasked"], np.isnan(judged.wins))


def test_it_sees_the_gold_answer() -> None:
    judged = scored("gold", rollouts(["4", "5", "6"], gold="5"))
    np.testing.assert_array_equal(judged.wins[0, 1], [1, 0.5, 1])
    assert judged.wins[0, 0, 2] == 0.5


@pytest.mark.parametrize("answer", ["text", "more", "less", "huge", "list"])
def test_what_is_no_probability_names_the_responses(answer: str) -> None:
    with pytest.raises(ValueError, match=r"moody must return .* in \[0, 1\].*'1/policy/1/q0'"):
        scored("moody", rollouts(["", answer]))


def test_an_error_inside_names_the_responses() -> None:
    with pytest.raises(KeyError, match="no such thing") as raised:
        scored("broken", rollouts(["b", "a"]))
    assert "'1/policy/1/q0' and '1/policy/0/q0'" in raised.value.__notes__[0]


def test_a_measure_is_of_all_answers_together() -> None:
    judged = scored("longer", rollouts(["a", "b"], ["c", "dd"]), measure=f"{HERE}.count")
    assert judged.batch_metrics == {"answers": 4.0, "prompts": 2.0}
    assert scored("longer", rollouts(), measure=f"{HERE}.broken_measure").batch_metrics == {}, (
        "there is nothing to measure"
    )


@pytest.mark.parametrize("measure", ["no_number", "no_mapping"])
def test_a_measure_is_a_mapping_to_numbers(measure: str) -> None:
    with pytest.raises(ValueError, match=f"scorer.measure={HERE}.{measure} must return a mapping from names to finite"):
        scored("longer", rollouts(["a"]), measure=f"{HERE}.{measure}")


def test_an_error_inside_a_measure_says_whose_it_is() -> None:
    with pytest.raises(KeyError) as raised:
        scored("longer", rollouts(["a"]), measure=f"{HERE}.broken_measure")
    assert raised.value.__notes__ == [f"raised by scorer.measure={HERE}.broken_measure"]


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({"function": "longer"}, "scorer.function must be written module.function"),
        ({"function": f"{HERE}.longer", "measure": "count"}, "scorer.measure must be written module.function"),
        ({"function": f"{HERE}.loger"}, r"scorer.function=.*'loger' is not there\. Fix: .*longer"),
        (
            {"function": f"{HERE}.longer", "measure": f"{HERE}.cuont"},
            "scorer.measure=.*'cuont' is not there",
        ),
        ({"function": "tests.support.broken_rules.f"}, "RuntimeError: half written"),
        ({"function": "tests.support.rules.length"}, r"must take \(prompt, first, second, meta\).*Fix: def length\("),
        (
            {"function": f"{HERE}.longer", "measure": "tests.support.rules.length"},
            r"scorer.measure=.*must take \(rollouts\)",
        ),
    ],
)
def test_what_cannot_be_imported_is_refused_before_any_worker_starts(fields: dict[str, str], said: str) -> None:
    with pytest.raises(ValueError, match=said):
        Comparison(**fields).check()


def test_another_source_is_another_judge() -> None:
    one, measured, elsewhere = (
        Comparison(f"{HERE}.longer", measure=measure).fingerprint()
        for measure in (None, f"{HERE}.count", "tests.support.rules.length")
    )
    assert one == measured, "one file"
    assert elsewhere != one
