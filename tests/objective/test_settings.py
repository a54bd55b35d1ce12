"""Settings at their bounds, and what each objective needs by default."""

from __future__ import annotations

from dataclasses import replace

import pytest

from rlhf_flow.objective import PARTS
from rlhf_flow.types import Needs
from tests.objective.test_every_objective import GROUPS, OTHERS, REWARDS, VARIANTS

FIRST = {name: some[0] for name, some in (VARIANTS | REWARDS | GROUPS | OTHERS).items()}
TINY = 1e-9
POSITIVE = ((0.0, -1.0), (TINY,))  # refused, accepted
ZERO_TOO = ((-TINY,), (0.0,))
UNIT = ((-TINY, 1 + TINY), (0.0, 1.0))
BOUNDS = [  # of each key: what is refused, and what is accepted
    ("dpo", "beta", *POSITIVE),
    ("ipo", "tau", *POSITIVE),
    ("slic", "beta", *POSITIVE),
    ("xpo", "clip", *POSITIVE),
    ("xpo", "alpha", ([], [-TINY], [float("inf")]), ([0.0],)),
    ("selm", "alpha", (-TINY, float("inf")), (0.0,)),
    ("sppo", "eta", *POSITIVE),
    ("simpo", "beta", *POSITIVE),
    ("simpo", "margin", *ZERO_TOO),
    ("cpo", "beta", *POSITIVE),
    ("cpo", "nll", *ZERO_TOO),
    ("orpo", "weight", *POSITIVE),
    ("chosen_nll", "weight", *ZERO_TOO),
    ("rdpo", "beta", *POSITIVE),
    ("rdpo", "noise", (-TINY, 0.5), (0.0, 0.5 - TINY)),
    ("rdpo", "clip", *POSITIVE),
    ("f_dpo", "beta", *POSITIVE),
    ("f_dpo", "alpha", (0.0, 1.0), (TINY, 1 - TINY)),
    ("f_dpo", "clip", *POSITIVE),
    ("hypo", "beta", *POSITIVE),
    ("hypo", "kl", (-TINY, float("inf")), (0.0,)),
    ("rebel", "eta", *POSITIVE),
    ("copg", "beta", *POSITIVE),
    ("gpo", "beta", *POSITIVE),
    ("gpo", "clip", *POSITIVE),
    ("mnpo", "tau", (-TINY, 0.005), (0.0, 0.005 - TINY)),
    (
        "mnpo",
        "weights",
        ([], [0.5], [0.5, 0.5000015], [1.0, 0.0], [1.5, -0.5], [0.2] * 5),
        ([1.0], [0.5, 0.5000005], [0.25] * 4),
    ),
    ("tgdpo", "beta", *POSITIVE),
    ("tgdpo", "alpha", *ZERO_TOO),
    ("ofs", "beta", *POSITIVE),
    ("ofs", "alpha", *ZERO_TOO),
    ("ofs", "most", *POSITIVE),
    ("chord", "mu", *UNIT),
    ("chord", "mu_end", *UNIT),
    ("chord", "anneal", (-1,), (0,)),
    ("srpo", "beta", *POSITIVE),
    ("srpo", "alpha", *UNIT),
    ("rloo", "beta", *ZERO_TOO),
    ("rloo", "clip", *POSITIVE),
    ("rloo", "returns", ("best",), ("last", "average")),
    ("grpo", "beta", *ZERO_TOO),
    ("grpo", "clip", *POSITIVE),
    ("opmd", "tau", *POSITIVE),
    ("kto", "beta", *POSITIVE),
    ("kto", "desirable", *POSITIVE),
    ("kto", "undesirable", *POSITIVE),
    ("a_lol", "clip", (0.0, 1.0), (TINY, 1 - TINY)),
    ("pro", "nll", *ZERO_TOO),
    ("trpa", "beta", *POSITIVE),
    ("trpa", "best", *POSITIVE),
    ("trpa", "kl", *ZERO_TOO),
    ("rated_preference", "weight", *ZERO_TOO),
    ("rating_regression", "scale", *POSITIVE),
    ("bradley_terry_mixture", "balance", *ZERO_TOO),
]
REFERENCE, PREVIOUS = frozenset({"reference"}), frozenset({"previous"})
BOTH = REFERENCE | PREVIOUS
# the answers are samples of the policy that the round starts from
GRADIENT = Needs(BOTH, sampled={"policy": "previous"}, examples="groups", side_value="any", on_policy=True)
NEEDS = {  # what the papers' losses read: another anchor is another method
    "dpo": Needs(REFERENCE),
    "slic": Needs(REFERENCE),
    "simpo": Needs(),
    "cpo": Needs(),
    "orpo": Needs(),
    "chosen_nll": Needs(REFERENCE),
    "rdpo": Needs(REFERENCE),
    "f_dpo": Needs(REFERENCE),
    "hypo": Needs(REFERENCE, sampled={"policy": "policy"}, extra="policy", on_policy=True),
    "rebel": Needs(PREVIOUS, side_value="utility"),
    "copg": Needs(REFERENCE, side_value="utility"),
    "gpo": Needs(PREVIOUS, side_value="log_odds", on_policy=True, returns="average"),
    "sppo": Needs(PREVIOUS, side_value="win_rate", on_policy=True, returns="average"),
    "mnpo": Needs(BOTH | {"previous_2", "previous_3"}, on_policy=True),
    "tgdpo": Needs(REFERENCE | {"reward_policy"}),
    "ofs": Needs(REFERENCE | {"sibling"}),
    "chord": replace(GRADIENT, extra="dataset"),
    "srpo": Needs(REFERENCE, examples="groups", order="drawn"),
    "rloo": GRADIENT,
    "grpo": GRADIENT,
    "opmd": Needs(PREVIOUS, examples="groups", side_value="any"),
    "asymre": Needs(examples="groups", side_value="any"),
    "kto": replace(GRADIENT, anchors=REFERENCE, sampled={"policy": "policy"}),
    "a_lol": Needs(REFERENCE, sampled={"reference": "reference"}, examples="groups", side_value="any"),
    "pro": Needs(examples="groups", order="worth", side_value="any"),
    "trpa": replace(GRADIENT, side_value="utility"),
    "negative_log_likelihood": Needs(examples="groups"),
    "bradley_terry_mixture": Needs(readout="mixture"),
}


@pytest.mark.parametrize(("name", "key", "refused", "accepted"), BOUNDS)
def test_bounds(name: str, key: str, refused: tuple[object, ...], accepted: tuple[object, ...]) -> None:
    given = vars(FIRST[name])
    for value in accepted:
        assert vars(PARTS[name](**given | {key: value}))[key] == value
    for value in refused:
        with pytest.raises(ValueError, match=rf"objective\.{key}\b"):
            PARTS[name](**given | {key: value})


@pytest.mark.parametrize("name", NEEDS)
def test_what_it_needs(name: str) -> None:
    assert FIRST[name].needs == NEEDS[name]


def test_some_learn_faster_than_dpo() -> None:
    """Their usual learning rates over that of DPO, at 7 B weights."""
    judges = dict.fromkeys(REWARDS, 10.0)
    rates = {name: vars(part)["usual_rate"] for name, part in PARTS.items() if "usual_rate" in vars(part)}
    assert rates == judges | {"negative_log_likelihood": 20.0, "grpo": 2.0, "orpo": 10.0}


def test_an_objective_of_others_has_theirs_of_the_round() -> None:
    base = PARTS["xpo"](alpha=[0.3, 0.2, 0.1])
    assert PARTS["chosen_nll"](base).at(2).base == base.at(2)
    assert len({str(base.at(round)) for round in (1, 2, 3)}) == 3


@pytest.mark.parametrize("name", ["rloo", "grpo"])
def test_without_a_kl_no_reference_is_read(name: str) -> None:
    assert PARTS[name](beta=0.0).needs.anchors == PREVIOUS


def test_theory_returns_the_last_policy_if_a_kl_holds_it_and_else_the_average() -> None:
    held = {"tau": 0.05, "eta": 0.1}
    for name in ("dno", "squared_anchor", "mnpo"):
        assert PARTS[name](**held).needs.returns == "last"
        assert PARTS[name](**held | {"tau": 0.0}).needs.returns == "average"
    assert [PARTS["nash_md"](tau=tau).needs.returns for tau in (0.05, 0.0)] == ["last", "average"]
    for returns in ("last", "average"):
        by_wins = [PARTS["rloo"](beta=beta, returns=returns).needs.returns for beta in (0.05, 0.0)]
        assert by_wins == ["last", returns]
    assert PARTS["inpo"]().needs.returns == PARTS["ipo"]().needs.returns == "last"


def test_a_weak_kl_to_a_fixed_reference_swings() -> None:
    assert [PARTS["ipo"](tau=tau).needs.swings for tau in (0.3 - TINY, 0.3, 0.5)] == [True, False, False]


def test_a_kl_to_the_last_policy_needs_samples_of_it() -> None:
    assert PARTS["trpa"](kl=0.0).needs == Needs(BOTH, examples="groups", side_value="utility")
