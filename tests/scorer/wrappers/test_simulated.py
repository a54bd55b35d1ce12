from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from rlhf_flow.protocols import Scorer
from rlhf_flow.scorer.functions.comparison import Comparison
from rlhf_flow.scorer.functions.rule import Rule
from rlhf_flow.scorer.wrappers.simulated import Simulated
from rlhf_flow.specs import Place
from rlhf_flow.types import Message, Rollouts, Scored, Verdict
from tests.scorer.conftest import rollouts

HERE = "tests.scorer.wrappers.test_simulated"
MANY = rollouts([f"{k:03d}" for k in range(70)])  # 2415 pairs
WORTH = 0.7  # nats between the two kinds of answers


def same(prompt: tuple[Message, ...], answer: str, meta: Mapping[str, object]) -> float:
    return 1.0


def odd(prompt: tuple[Message, ...], answer: str, meta: Mapping[str, object]) -> Verdict:
    """An odd number is worth more than an even one."""
    value = int(answer) % 2
    return Verdict(WORTH * value, aspects={"odd": value})


def certain(prompt: tuple[Message, ...], answer: str, meta: Mapping[str, object]) -> float:
    return float(answer)


def timid(prompt: tuple[Message, ...], answer: str, meta: Mapping[str, object]) -> float | None:
    return None if answer == "?" else 0.0


def preferred(prompt: tuple[Message, ...], first: str, second: str, meta: Mapping[str, object]) -> float:
    """The same view as `odd`, of a judge that compares."""
    return 1 / (1 + math.exp(-WORTH * (int(first) % 2 - int(second) % 2)))


def surely(prompt: tuple[Message, ...], first: str, second: str, meta: Mapping[str, object]) -> float:
    return float(first > second)


def size(asked: Rollouts) -> dict[str, float]:
    return {"size": float(len(asked.prompts))}


def rule(name: str) -> Rule:
    return Rule(f"{HERE}.{name}")


def scored(asked: Rollouts, spec: Simulated) -> Scored:
    spec.check()
    return spec.open(Place()).score(asked)


def verdicts(judged: Scored) -> np.ndarray:
    """[M]: of every two answers once."""
    i, j = np.triu_indices(judged.wins.shape[1], k=1)
    return judged.wins[0, i, j]


def better(judged: Scored) -> np.ndarray:
    """The verdicts on an odd and an even number, as P(the odd one wins)."""
    odd_one = np.array([int(one.text) % 2 == 1 for one in judged.rollouts.responses[0]])
    return judged.wins[0][np.ix_(odd_one, ~odd_one)].ravel()


def is_rate(hits: np.ndarray, rate: float) -> bool:
    """Whether so many hits are within four standard errors of what the rate gives."""
    error = math.sqrt(rate * (1 - rate) / hits.size)
    return abs(hits.mean() - rate) <= 4 * error


def sigmoid(nats: float) -> float:
    return 1 / (1 + math.exp(-nats))


# -- the model of a verdict -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("temperature", [0.5, 1.0, 2.0])
@pytest.mark.parametrize("of", [rule("odd"), Comparison(f"{HERE}.preferred")], ids=["numbers", "preferences"])
def test_a_verdict_is_drawn_by_the_strength_over_the_temperature(of: object, temperature: float) -> None:
    said = better(scored(MANY, Simulated(of, temperature=temperature)))
    assert set(said) == {0.0, 1.0}
    assert is_rate(said, sigmoid(WORTH / temperature))


def test_answers_of_equal_worth_are_a_coin_and_never_a_tie() -> None:
    said = verdicts(scored(MANY, Simulated(rule("same"))))
    assert set(said) == {0.0, 1.0}
    assert is_rate(said, 0.5)


@pytest.mark.parametrize("flips", [0.0, 0.1, 0.5])
@pytest.mark.parametrize("of", [rule("certain"), Comparison(f"{HERE}.surely")], ids=["numbers", "preferences"])
def test_so_many_verdicts_are_turned(of: object, flips: float) -> None:
    said = verdicts(scored(MANY, Simulated(of, temperature=1e-300, flips=flips)))  # the later answer is the better
    assert is_rate(said, flips)


@pytest.mark.parametrize(("ties", "tied"), [(0.15, False), (0.18, True)])  # sigma(0.7) = 0.668
def test_a_probability_that_is_close_to_one_half_is_a_tie(ties: float, tied: bool) -> None:
    judged = scored(MANY, Simulated(rule("odd"), ties=ties))
    assert (better(judged) == 0.5).all() == tied
    assert is_rate(better(judged), sigmoid(WORTH)) != tied
    even = judged.wins[0][::2, ::2]
    assert (even == 0.5).all(), "answers of equal worth are closer still"


def test_so_many_pairs_get_no_verdict() -> None:
    judged = scored(MANY, Simulated(rule("odd"), abstains=0.3))
    none = np.isnan(verdicts(judged))
    assert is_rate(none, 0.3)
    assert judged.counts["judge/queries"] == judged.counts["judge/asked"] == none.size
    assert judged.counts["judge/abstained"] == none.sum() == none.size - judged.counts["judge/verdicts"]
    assert is_rate(better(judged)[~np.isnan(better(judged))], sigmoid(WORTH)), "whatever the judge thinks of them"
    assert np.isnan(verdicts(scored(MANY, Simulated(rule("odd"), abstains=1)))).all()


# -- who stands first -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("bias", [1.5, -1.5])
def test_a_bias_for_a_place_moves_the_odds_by_so_many_nats(bias: float) -> None:
    """Asked in both orders, the two answers differ where the same place wins twice."""
    p = sigmoid(bias)
    said = verdicts(scored(MANY, Simulated(rule("same"), position_bias=bias, both_orders=True)))
    assert set(said) == {0.0, 0.5, 1.0}
    assert is_rate(said == 0.5, p**2 + (1 - p) ** 2)
    forth, back = sigmoid(WORTH + bias), sigmoid(WORTH - bias)  # the better one stands first, or second
    said = better(scored(MANY, Simulated(rule("odd"), position_bias=bias, both_orders=True)))
    assert is_rate(said == 1, forth * back)
    assert is_rate(said == 0, (1 - forth) * (1 - back))


def test_in_one_order_who_stands_first_is_a_coin() -> None:
    said = verdicts(scored(MANY, Simulated(rule("same"), position_bias=50)))
    assert is_rate(said, 0.5), "whoever stands first has won"
    said = better(scored(MANY, Simulated(rule("odd"), position_bias=2)))
    assert is_rate(said, (sigmoid(WORTH + 2) + sigmoid(WORTH - 2)) / 2)


def test_in_both_orders_a_bias_gives_nobody_a_win() -> None:
    assert (verdicts(scored(MANY, Simulated(rule("odd"), position_bias=50, both_orders=True))) == 0.5).all()


def test_each_order_is_turned_by_itself() -> None:
    said = verdicts(scored(MANY, Simulated(rule("certain"), temperature=1e-300, flips=0.2, both_orders=True)))
    assert is_rate(said == 0.5, 2 * 0.2 * 0.8)
    assert is_rate(said == 1, 0.2**2)


# -- what a verdict belongs to ----------------------------------------------------------------------------------------

FIELDS = st.fixed_dictionaries(
    {
        "position_bias": st.sampled_from([0.0, 1.0]),
        "both_orders": st.booleans(),
        "ties": st.sampled_from([0.0, 0.2]),
        "flips": st.sampled_from([0.0, 0.2]),
        "abstains": st.sampled_from([0.0, 0.2]),
        "seed": st.integers(0, 3),
    }
)


@given(FIELDS, st.lists(st.sampled_from("12345"), min_size=1, max_size=7), st.data())
def test_a_verdict_is_one_whatever_the_order_the_company_and_the_repetition(fields, texts, data) -> None:
    spec = Simulated(rule("odd"), **fields)
    wins = scored(rollouts(texts), spec).wins[0]
    order = data.draw(st.permutations(range(len(texts))))
    turned = scored(rollouts([texts[k] for k in order]), spec).wins[0]
    np.testing.assert_array_equal(turned, wins[np.ix_(order, order)])
    for (i, first), (j, second) in pairwise(enumerate(texts)):
        alone = scored(rollouts([first, second]), spec).wins[0]
        assert alone[0, 1] == wins[i, j] or (np.isnan(alone[0, 1]) and np.isnan(wins[i, j]))


@given(FIELDS, st.lists(st.sampled_from("12345"), min_size=1, max_size=7))
def test_wins_add_up_exactly_and_equal_texts_tie(fields, texts: list[str]) -> None:
    judged = scored(rollouts(texts), Simulated(rule("odd"), **fields))
    wins = judged.wins[0]
    known = ~np.isnan(wins)
    assert (known == known.T).all()
    assert (wins + wins.T)[known].tolist() == [1.0] * known.sum()
    equal = np.array(texts)[:, None] == np.array(texts)[None, :]
    assert (wins[equal] == 0.5).all()
    np.testing.assert_allclose(judged.utility[0], np.nanmean(wins, axis=-1), rtol=1e-6)


def test_prompts_are_judged_by_their_own_ids_and_rounds_do_not_matter() -> None:
    texts = [str(k) for k in range(20)]
    both = scored(rollouts(texts, texts), Simulated(rule("same"))).wins
    assert (both[0] != both[1]).any(), "another prompt is another question"
    later = replace(rollouts(texts, texts), round=7)
    np.testing.assert_array_equal(scored(later, Simulated(rule("same"))).wins, both)


def test_another_seed_is_another_annotator() -> None:
    one, other = (verdicts(scored(MANY, Simulated(rule("same"), seed=seed))) for seed in (0, 1))
    assert is_rate(one == other, 0.5)


def test_noise_makes_cycles() -> None:
    wins = scored(MANY, Simulated(rule("same"))).wins[0]
    beats = (wins > 0.5).astype(int)
    assert np.trace(beats @ beats @ beats) > 0
    assert Simulated(rule("same")).intransitive and not rule("same").intransitive


# -- the judge inside -------------------------------------------------------------------------------------------------


def test_where_the_judge_abstains_there_is_no_verdict() -> None:
    judged = scored(rollouts(["a", "?", "b", "?"]), Simulated(rule("timid")))
    assert np.isnan(judged.wins[0, [0, 0, 2, 2], [1, 3, 1, 3]]).all()
    assert judged.wins[0, 0, 2] in (0, 1) and judged.wins[0, 1, 3] == 0.5
    assert judged.counts == {"judge/queries": 3, "judge/asked": 3, "judge/verdicts": 1, "judge/abstained": 2}
    of = Comparison("tests.support.comparisons.shy")
    judged = scored(rollouts(["a", "?"]), Simulated(of))
    assert np.isnan(judged.wins[0, 0, 1]) and judged.counts["judge/abstained"] == 1


def test_aspects_and_measures_are_the_judges() -> None:
    asked = rollouts(["1", "2"], ["3", "3"])
    np.testing.assert_array_equal(scored(asked, Simulated(rule("odd"))).aspects["odd"], [[1, 0], [1, 1]])
    judged = scored(asked, Simulated(Comparison(f"{HERE}.preferred", measure=f"{HERE}.size")))
    assert judged.batch_metrics == {"size": 2.0}


def test_an_annotator_may_be_seen_through_noise_again() -> None:
    inner = Simulated(rule("certain"), temperature=1e-300)
    said = verdicts(scored(MANY, Simulated(inner, temperature=7.0, flips=0.25)))
    assert is_rate(said, 0.25), "a certain verdict stays certain at every temperature"


@dataclass
class Counted:
    """A specification that says where it was opened, and a scorer that knows whether it was closed."""

    loads_model: bool = True
    intransitive: bool = False
    place: Place | None = None
    checked: bool = False
    closed: bool = False

    def fingerprint(self) -> str:
        return "counted"

    def check(self) -> None:
        self.checked = True

    def open(self, place: Place) -> Scorer:
        self.place = place
        return self

    def score(self, asked: Rollouts) -> Scored:
        return replace(rule("same").open(Place()).score(asked), counts={"judge/queries": 9, "judge/truncated": 4})

    def close(self) -> None:
        self.closed = True


def test_the_judge_is_checked_opened_and_closed_with_it() -> None:
    inner, place = Counted(), Place(device="cuda:3")
    spec = Simulated(inner)
    assert spec.loads_model and not Simulated(rule("same")).loads_model
    assert spec.fingerprint() == "counted"
    spec.check()
    judge = spec.open(place)
    judged = judge.score(rollouts(["a", "b", "c"]))
    assert judged.counts["judge/queries"] == judged.counts["judge/verdicts"] == 3
    assert judged.counts["judge/truncated"] == 4 and judged.counts["judge/abstained"] == 0
    judge.close()
    assert inner.checked and inner.place is place and inner.closed


def test_a_judge_that_cannot_be_opened_is_refused_before_any_worker_starts() -> None:
    with pytest.raises(ValueError, match="'smae' is not there"):
        Simulated(rule("smae")).check()


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({"temperature": 0.0}, r"scorer\.temperature must be > 0 and finite, got 0\.0"),
        ({"temperature": math.inf}, r"scorer\.temperature must be > 0 and finite, got inf"),
        ({"position_bias": math.nan}, r"scorer\.position_bias must be finite, in nats, got nan"),
        ({"ties": 0.5}, r"scorer\.ties must be in \[0, 1/2\), .* got 0\.5"),
        ({"flips": 0.6}, r"scorer\.flips must be in \[0, 1/2\], .* got 0\.6"),
        ({"abstains": -0.1}, r"scorer\.abstains must be in \[0, 1\], got -0\.1"),
    ],
)
def test_a_field_that_makes_no_sense_is_refused(fields: dict[str, float], said: str) -> None:
    with pytest.raises(ValueError, match=said):
        Simulated(rule("same"), **fields)
