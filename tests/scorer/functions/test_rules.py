from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from rlhf_flow.scorer.functions.rule import Rule
from rlhf_flow.scorer.functions.rules import Rules, Term
from rlhf_flow.specs import Place
from rlhf_flow.types import Rollouts, Scored
from tests.scorer.conftest import rollouts

HERE = "tests.support.rules"
SHIPPED = "rlhf_flow.scorer.shipped"


def scored(asked: Rollouts, *terms: Term) -> Scored:
    spec = Rules([*terms])
    spec.check()
    return spec.open(Place()).score(asked)


def test_the_worth_is_the_weighted_sum_and_each_value_an_aspect() -> None:
    judged = scored(
        rollouts(["a", "bbb", "{}"], ["", "[]", "cc"]),
        Term(f"{HERE}.length", weight=-0.5),
        Term(f"{SHIPPED}.valid_json", weight=2, name="json"),
    )
    assert list(judged.aspects) == ["length", "json"]
    np.testing.assert_array_equal(judged.aspects["length"], [[1, 3, 2], [0, 2, 2]])
    np.testing.assert_array_equal(judged.aspects["json"], [[0, 0, 1], [0, 1, 0]])
    np.testing.assert_array_equal(judged.utility, [[-0.5, -1.5, 1], [0, 1, -1]])
    np.testing.assert_array_equal(judged.wins[0], [[0.5, 1, 0], [0, 0.5, 0], [1, 1, 0.5]])
    assert judged.counts == {"judge/queries": 6, "judge/abstained": 0}


@given(st.lists(st.text(max_size=4), min_size=1, max_size=5), st.integers(-8, 8).map(lambda k: k / 4))
def test_one_term_is_a_rule_times_its_weight(texts: list[str], weight: float) -> None:
    asked = rollouts(texts)
    alone = Rule(f"{HERE}.length").open(Place()).score(asked)
    if weight == 0:
        with pytest.raises(ValueError, match=r"scorer\.terms must hold at least one term"):
            scored(asked, Term(f"{HERE}.length", weight))
        return
    judged = scored(asked, Term(f"{HERE}.length", weight))
    np.testing.assert_array_equal(judged.utility, alone.utility * weight)
    np.testing.assert_array_equal(judged.wins, alone.wins if weight > 0 else alone.wins.swapaxes(1, 2))


def test_a_term_of_weight_zero_is_an_aspect_alone() -> None:
    judged = scored(rollouts(["a", "[]"]), Term(f"{HERE}.length"), Term(f"{SHIPPED}.valid_json", weight=0))
    np.testing.assert_array_equal(judged.utility, [[1, 2]])
    np.testing.assert_array_equal(judged.aspects["valid_json"], [[0, 1]])


def test_the_aspects_of_a_term_bear_its_name() -> None:
    judged = scored(rollouts(["a", "bbb"]), Term(f"{HERE}.aspects", name="mine"), Term(f"{HERE}.length"))
    assert list(judged.aspects) == ["mine", "mine/length", "mine/level", "length"]
    np.testing.assert_array_equal(judged.utility, [[2, 6]])


def test_where_one_term_abstains_the_judgement_does() -> None:
    asked = rollouts(["fine", "none", "more"])
    with pytest.raises(ValueError, match=r"scorer\.terms must name the same aspects .*'1/policy/2/q0'"):
        scored(asked, Term(f"{HERE}.moody"), Term(f"{HERE}.length"))
    judged = scored(rollouts(["fine", "none", "nan"]), Term(f"{HERE}.moody"), Term(f"{HERE}.length"))
    np.testing.assert_array_equal(judged.utility, [[5, np.nan, np.nan]])
    np.testing.assert_array_equal(judged.aspects["moody"], [[1, np.nan, np.nan]])
    np.testing.assert_array_equal(judged.aspects["length"], [[4, 4, 3]], "what the others say is kept")
    assert np.isnan(judged.wins[0][~np.eye(3, dtype=bool)]).all()
    assert (judged.wins[0].diagonal() == 0.5).all()
    assert judged.counts == {"judge/queries": 3, "judge/abstained": 2}


def test_a_sum_that_is_too_large_names_the_response() -> None:
    with pytest.raises(ValueError, match=r"scorer\.terms must add up to .*'1/policy/1/q0' they add up to 5e\+38"):
        scored(rollouts(["", "aaaaa"]), Term(f"{HERE}.length", weight=1e38))
    both = (Term(f"{HERE}.length", weight=1e308), Term(f"{HERE}.length", weight=-1e308, name="less"))
    with pytest.raises(ValueError, match="add up to nan"):
        scored(rollouts(["a" * 99]), *both)


def test_an_error_inside_names_the_term_and_the_response() -> None:
    with pytest.raises(KeyError) as raised:
        scored(rollouts(["a"]), Term(f"{HERE}.length"), Term(f"{HERE}.broken"))
    assert raised.value.__notes__ == [f"raised by scorer.terms.1.function={HERE}.broken on response '1/policy/0/q0'"]
    with pytest.raises(ValueError, match=rf"scorer\.terms\.1\.function={HERE}\.moody must return"):
        scored(rollouts(["huge"]), Term(f"{HERE}.length"), Term(f"{HERE}.moody"))


@pytest.mark.parametrize(
    ("terms", "said"),
    [
        ([], r"scorer\.terms must hold at least one term with a weight other than 0, got \[\]"),
        ([Term("length")], r"scorer\.terms\.0\.function must be written module\.function"),
        ([Term("a.b"), Term("a.c", weight=float("nan"))], r"scorer\.terms\.1\.weight must be finite, got nan"),
        ([Term("a.b", weight=0)], r"weight other than 0, got \['a\.b'\]"),
        ([Term("a.b", name="")], r"scorer\.terms\.0\.name must be a name without '/', got ''"),
        ([Term("a.b", name="x/y")], r"scorer\.terms\.0\.name must be a name without '/', got 'x/y'"),
        ([Term("a.f"), Term("b.f"), Term("a.g")], r"scorer\.terms must have different names, got f twice"),
    ],
)
def test_terms_that_make_no_sense_are_refused(terms: list[Term], said: str) -> None:
    with pytest.raises(ValueError, match=said):
        Rules(terms)


@pytest.mark.parametrize(
    ("term", "said"),
    [
        (Term(f"{HERE}.lenght"), r"scorer\.terms\.1\.function=.*'lenght' is not there"),
        (Term(f"{SHIPPED}.length", arguments={"mots": 3}), r"scorer\.terms\.1\.arguments must be those of .*'mots'"),
        (Term(f"{SHIPPED}.in_format"), r"scorer\.terms\.1\.arguments must be .*missing .*'pattern'"),
    ],
)
def test_what_cannot_be_called_is_refused_before_any_worker_starts(term: Term, said: str) -> None:
    with pytest.raises(ValueError, match=said):
        Rules([Term(f"{HERE}.aspects"), term]).check()


def test_another_source_is_another_judge() -> None:
    one, same, more = (
        Rules([Term(f"{HERE}.length"), *others]).fingerprint()
        for others in ([], [Term(f"{HERE}.right")], [Term(f"{SHIPPED}.valid_json")])
    )
    assert one == same == Rule(f"{HERE}.length").fingerprint(), "one file"
    assert more != one
