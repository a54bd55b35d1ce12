"""What is true of every objective, and of every one that looks at pairs evenhandedly."""

from __future__ import annotations

from dataclasses import FrozenInstanceError, fields, replace

import pytest
import torch
from hypothesis import given
from omegaconf import OmegaConf

from rlhf_flow.objective import PARTS
from rlhf_flow.protocols import Objective
from rlhf_flow.types import Needs
from rlhf_flow.verify.pairs import at_the_anchors, blocks, draw_pairs, gradients, tensors
from tests.support.pairs import SEEDS, quick
from tests.support.rewards import random_pairs

VARIANTS: dict[str, list[Objective]] = {  # of each part: as it is by default, and otherwise
    "dpo": [PARTS["dpo"](), PARTS["dpo"](beta=1.3)],
    "ipo": [PARTS["ipo"](), PARTS["ipo"](tau=0.1, reduction="mean")],
    "slic": [PARTS["slic"](), PARTS["slic"](beta=0.5), PARTS["slic"](beta=0.5, reduction="mean")],
    "xpo": [PARTS["xpo"](), PARTS["xpo"](alpha=[0.3], clip=2.0)],
    "selm": [PARTS["selm"](), PARTS["selm"](beta=0.5, alpha=0.4, variant="theoretical")],
    "dno": [PARTS["dno"](), PARTS["dno"](eta=0.7, tau=0.2)],
    "squared_anchor": [
        PARTS["squared_anchor"](),
        PARTS["squared_anchor"](eta=0.5, tau=0.2),
        PARTS["squared_anchor"](eta=0.5, tau=0.2, reduction="mean"),
    ],
    "inpo": [PARTS["inpo"](), PARTS["inpo"](eta=0.2, tau=0.1), PARTS["inpo"](tau=0.1, decaying=True)],
    "nash_md": [PARTS["nash_md"](), PARTS["nash_md"](tau=0.3, clip=0.2, scalar_judge="allow")],
    "sppo": [PARTS["sppo"](), PARTS["sppo"](eta=3.0, reduction="mean")],
    "simpo": [PARTS["simpo"](), PARTS["simpo"](beta=1.0, margin=0.0)],
    "cpo": [PARTS["cpo"](), PARTS["cpo"](nll=0.0)],
    "orpo": [PARTS["orpo"](weight=0.5)],
    "chosen_nll": [PARTS["chosen_nll"](PARTS["dpo"](), 0.5, reduction) for reduction in ("sum", "mean", "batch")],
    "rdpo": [PARTS["rdpo"](), PARTS["rdpo"](beta=0.5, noise=0.3)],
    "f_dpo": [PARTS["f_dpo"](0.5, kind) for kind in ("reverse_kl", "forward_kl", "jensen_shannon", "alpha")],
    "hypo": [PARTS["hypo"](), PARTS["hypo"](kl=0.5)],
    "rebel": [PARTS["rebel"](), PARTS["rebel"](eta=3.0, reduction="mean")],
    "copg": [PARTS["copg"](), PARTS["copg"](beta=2.0, reduction="mean")],
    "gpo": [PARTS["gpo"](beta=0.5), PARTS["gpo"](beta=0.1, clip=2.0, reduction="mean")],
    "mnpo": [PARTS["mnpo"](), PARTS["mnpo"](eta=0.5, tau=0.1, weights=[0.5, 0.5])],
    "tgdpo": [PARTS["tgdpo"](), PARTS["tgdpo"](beta=0.5, alpha=2.0)],
    "ofs": [PARTS["ofs"](), PARTS["ofs"](beta=0.5, alpha=0.7), PARTS["ofs"](alpha=0.7, slow=True)],
}
GROUPS: dict[str, list[Objective]] = {
    "rloo": [PARTS["rloo"](), PARTS["rloo"](beta=0.0, clip=None)],
    "grpo": [PARTS["grpo"](), PARTS["grpo"](beta=0.0, clip=None)],
    "opmd": [PARTS["opmd"](), PARTS["opmd"](tau=2.0)],
    "asymre": [PARTS["asymre"](), PARTS["asymre"](shift=0.3)],
    "kto": [PARTS["kto"](), PARTS["kto"](beta=1.0, desirable=1.3, threshold=0.2)],
    "a_lol": [PARTS["a_lol"](), PARTS["a_lol"](clip=0.2)],
    "pro": [PARTS["pro"](), PARTS["pro"](nll=0.0)],
    "trpa": [PARTS["trpa"](), PARTS["trpa"](beta=1.0, best=1.5)],
    "negative_log_likelihood": [PARTS["negative_log_likelihood"]()],
}
REWARDS: dict[str, list[Objective]] = {  # those that fit judges; each has a test of its own
    "generative_preference": [PARTS["generative_preference"]()],
    "rated_preference": [PARTS["rated_preference"](), PARTS["rated_preference"](strength="margin", weight=0.1)],
    "bt": [PARTS["bt"](), PARTS["bt"](strength="scale", center=0.01)],
    "rating_regression": [PARTS["rating_regression"](), PARTS["rating_regression"](center=0.1)],
    "general_preference": [PARTS["general_preference"]()],
    "bradley_terry_mixture": [PARTS["bradley_terry_mixture"](), PARTS["bradley_terry_mixture"](balance=0.0)],
}
OTHERS: dict[str, list[Objective]] = {  # of groups that hold more than samples; each has a test of its own
    "chord": [PARTS["chord"](PARTS["grpo"]()), PARTS["chord"](PARTS["rloo"](), mu=0.4, by_token=True)],
    "srpo": [PARTS["srpo"](), PARTS["srpo"](beta=0.5, alpha=0.2)],
}
EVERY = [pytest.param(o, id=f"{name}-{at}") for name, some in VARIANTS.items() for at, o in enumerate(some)]
PAIRWISE = [param for param in EVERY if not str(param.id).startswith("nash_md")]
BY_WORTH = ("dno", "sppo", "rebel", "copg", "gpo")  # what they read of each side is not the label
LABELLED = [param for param in PAIRWISE if not str(param.id).startswith(BY_WORTH)]
IMITATE = ("cpo", "orpo", "chosen_nll")  # the winner's likelihood is a step in the label
EXPECTED = [param for param in LABELLED if not str(param.id).startswith(IMITATE)]
FREE = ("simpo", "cpo", "orpo")  # without a reference
ANCHORED = [param for param in PAIRWISE if not str(param.id).startswith((*FREE, "hypo", "gpo"))]
SQUARED = [param for param in PAIRWISE if str(param.id).startswith(("ipo", "squared_anchor", "inpo", "sppo"))]

FITTING = [pytest.param(o, id=f"{name}-{at}") for name, some in REWARDS.items() for at, o in enumerate(some)]

every = pytest.mark.parametrize("objective", EVERY)
rewards_too = pytest.mark.parametrize("objective", [*EVERY, *FITTING])
pairwise = pytest.mark.parametrize("objective", PAIRWISE)


def test_every_part_is_tried() -> None:
    tried = VARIANTS | REWARDS | GROUPS | OTHERS
    assert tried.keys() == PARTS.keys()
    assert all(type(o) is PARTS[name] for name, some in tried.items() for o in some)


@every
def test_it_is_satisfied_by_what_it_needs(objective: Objective) -> None:
    assert isinstance(objective.needs, Needs)
    loss = objective.loss(tensors(draw_pairs(0), objective))
    assert loss.values.shape == (4,)
    assert loss.values.requires_grad
    for values in loss.metrics.values():
        assert values.shape == (4,)
        assert values.is_floating_point()
        assert not values.requires_grad


@pytest.mark.parametrize("objective", FITTING)
def test_the_metrics_of_a_judge_are_of_its_numbers_and_have_no_gradient(objective: Objective) -> None:
    several = {PARTS["general_preference"]: 2, PARTS["bradley_terry_mixture"]: 4}
    outputs = several.get(type(objective), 1)
    pairs = replace(random_pairs(0, outputs=outputs), worth=torch.rand(5, 2))
    loss = objective.loss(pairs)
    assert loss.values.requires_grad
    assert not any(values.requires_grad for values in loss.metrics.values())
    if outputs == 1:
        first, second = pairs.current.first.sum, pairs.current.second.sum
        gap = (first - second) * torch.sign(pairs.preference - 0.5)  # as the preferred side sees it
        assert loss.metrics["margin"].tolist() == pytest.approx(gap.tolist())


@pytest.mark.parametrize(
    ("name", "missing"), [("xpo", "extra"), ("selm", "extra"), ("dno", "worth"), ("sppo", "worth")]
)
def test_pairs_without_what_it_needs_are_refused(name: str, missing: str) -> None:
    objective = VARIANTS[name][0]
    pairs = tensors(draw_pairs(0), objective)
    poor = {"extra": replace(pairs, current=replace(pairs.current, extra=None)), "worth": replace(pairs, worth=None)}
    with pytest.raises(ValueError, match=rf"these pairs have none. Fix: a selector .*{missing}"):
        objective.loss(poor[missing])


@every
@quick
@given(SEEDS)
def test_anchors_and_padding_get_no_gradient(objective: Objective, seed: int) -> None:
    drawn = draw_pairs(seed)
    pairs = tensors(drawn, objective, left=1, right=2, padding=-7.0)
    objective.loss(pairs).values.sum().backward()
    for block in blocks(pairs).values():
        assert block.values.grad is None or not block.values.grad[~block.mask].any()
    assert not any(anchor.first.values.requires_grad for anchor in pairs.anchors.values())


@every
@quick
@given(SEEDS)
def test_padding_changes_nothing(objective: Objective, seed: int) -> None:
    drawn = draw_pairs(seed)
    bare = objective.loss(tensors(drawn, objective))
    values, found = gradients(objective, tensors(drawn, objective))
    for padded in ({"right": 3}, {"left": 2}, {"left": 1, "right": 1, "padding": 55.0}):
        again, found_again = gradients(objective, tensors(drawn, objective, **padded))
        assert again == pytest.approx(values, rel=1e-12)
        for here, there in zip(found, found_again, strict=True):
            for side in here:
                assert there[side] == pytest.approx(here[side], rel=1e-12)
        metrics = objective.loss(tensors(drawn, objective, **padded)).metrics
        for name in bare.metrics:
            assert metrics[name].tolist() == pytest.approx(bare.metrics[name].tolist(), rel=1e-9, abs=1e-12)


@every
@quick
@given(SEEDS)
def test_a_pair_does_not_depend_on_its_batch(objective: Objective, seed: int) -> None:
    drawn = draw_pairs(seed)
    together = objective.loss(tensors(drawn, objective))
    for row, pair in enumerate(drawn):
        alone = objective.loss(tensors([pair], objective))
        assert alone.values.item() == pytest.approx(together.values[row].item(), rel=1e-12)
        for name, values in alone.metrics.items():
            assert values.item() == pytest.approx(together.metrics[name][row].item(), rel=1e-12)


@pairwise
@quick
@given(SEEDS)
def test_which_response_comes_first_does_not_matter(objective: Objective, seed: int) -> None:
    drawn = draw_pairs(seed)
    here = objective.loss(tensors(drawn, objective))
    there = objective.loss(tensors([pair.swapped() for pair in drawn], objective))
    assert here.values.tolist() == pytest.approx(there.values.tolist(), rel=1e-12)
    for name, values in here.metrics.items():
        assert values.tolist() == pytest.approx(there.metrics[name].tolist(), rel=1e-9, abs=1e-11)


@pytest.mark.parametrize("objective", EXPECTED)
@quick
@given(SEEDS)
def test_a_soft_label_is_the_expectation_over_hard_ones(objective: Objective, seed: int) -> None:
    """Linear in p: at 1 it is the hard loss, and at 0 that of the other order."""
    drawn = draw_pairs(seed)
    soft, won, lost = (
        objective.loss(tensors([replace(pair, p=p(pair)) for pair in drawn], objective)).values
        for p in (lambda pair: pair.p, lambda _: 1.0, lambda _: 0.0)
    )
    p = torch.tensor([pair.p for pair in drawn], dtype=torch.float64)
    assert soft.tolist() == pytest.approx((p * won + (1 - p) * lost).tolist(), rel=1e-12)
    turned = objective.loss(tensors([replace(pair.swapped(), p=1.0) for pair in drawn], objective)).values
    assert lost.tolist() == pytest.approx(turned.tolist(), rel=1e-12)


@pytest.mark.parametrize("objective", ANCHORED)
@quick
@given(SEEDS)
def test_at_the_anchors_the_margin_is_0_and_descent_raises_the_winner(objective: Objective, seed: int) -> None:
    drawn = [at_the_anchors(pair, p=1.0, worth=(0.9, 0.2)) for pair in draw_pairs(seed)]
    metrics = objective.loss(tensors(drawn, objective)).metrics
    for name in ("margin", "chosen", "rejected", *(["h"] if "h" in metrics else [])):
        assert metrics[name].tolist() == [0.0] * 4, name
    assert metrics["accuracy"].tolist() == [0.5] * 4
    _, found = gradients(objective, tensors(drawn, objective))
    for gradient in found:
        assert all(slope < 0 for slope in gradient["first"])
        assert all(slope > 0 for slope in gradient["second"])
        assert all(slope > 0 for slope in gradient.get("extra", [])), "the explored response is made less likely"


@every
def test_in_float32_the_margin_of_a_long_answer_at_the_anchors_is_0_to_1e_4(objective: Objective) -> None:
    long = draw_pairs(1, count=1)[0]
    tokens = {side: [-0.1 - 0.37 * t % 3 for t in range(5)] for side in long.tokens["reference"]}
    pair = at_the_anchors(replace(long, tokens={"reference": tokens}), p=0.7, worth=(0.9, 0.2))
    loss = objective.loss(tensors([pair], objective, dtype=torch.float32))
    assert loss.values.dtype == torch.float32
    for name in ("margin", "h", "kl", "extra"):
        if name in loss.metrics:
            assert loss.metrics[name].dtype == torch.float32
            assert abs(loss.metrics[name].item()) < 1e-4


@pytest.mark.parametrize("objective", SQUARED)
@quick
@given(SEEDS)
def test_the_gradient_of_a_square_vanishes_where_h_is_the_target(objective: Objective, seed: int) -> None:
    """Moving the preferred side by what h lacks of its target leaves no gradient between the two sides."""
    pair = replace(draw_pairs(seed, count=1)[0], p=0.8, worth=(0.7, 0.4))
    metrics = objective.loss(tensors([pair], objective)).metrics
    lacks = (metrics["target"] - metrics["h"]).item()
    mean = "reduction='mean'" in repr(objective)
    moved = pair.moved("first", 0, lacks * (pair.length("first") if mean else 1))
    after = objective.loss(tensors([moved], objective)).metrics
    assert after["h"].item() == pytest.approx(after["target"].item(), abs=1e-9)
    _, (gradient,) = gradients(objective, tensors([moved], objective))
    lengths = {side: pair.length(side) if mean else 1 for side in ("first", "second")}
    sides = {side: gradient[side][0] * lengths[side] for side in lengths}
    if objective.needs.side_value:  # one target a response: the two residuals are equal, not nil
        assert sides["first"] == pytest.approx(sides["second"], abs=1e-8)
    else:
        assert sides["first"] == pytest.approx(0, abs=1e-8)


@rewards_too
def test_it_is_a_configuration(objective: Objective) -> None:
    composed = OmegaConf.structured(objective)
    assert OmegaConf.to_object(composed) == objective
    assert {field.name for field in fields(objective)} == set(composed)
    with pytest.raises(FrozenInstanceError):
        objective.tau = objective.beta = objective.eta = 1.0


@rewards_too
def test_a_round_gives_an_objective_of_the_same_kind(objective: Objective) -> None:
    for round in (1, 2, 7):
        now = objective.at(round)
        assert type(now) is type(objective)
        assert now.needs == objective.needs
        assert now.at(round) == now


def test_the_defaults_are_those_of_the_papers() -> None:
    """Written down once more: who changes one changes what a recipe is."""
    found = {name: {field.name: getattr(part(), field.name) for field in fields(part)} for name, part in PARTS.items()}
    assert found == {
        "dpo": {"beta": 0.1},
        "ipo": {"tau": 1.0, "reduction": "sum"},
        "slic": {"beta": 0.002, "reduction": "sum"},
        "xpo": {"beta": 0.1, "alpha": [1e-5, 5e-6, 0.0], "clip": 500.0},
        "selm": {"beta": 0.01, "alpha": 0.001, "variant": "practical"},
        "dno": {"eta": 0.1, "tau": 0.0},
        "squared_anchor": {"eta": 0.005, "tau": 0.0, "reduction": "sum"},
        "inpo": {"eta": 0.005, "tau": None, "decaying": False, "reduction": "sum"},
        "nash_md": {"tau": 0.008, "clip": None, "scalar_judge": "refuse"},
        "sppo": {"eta": 1000.0, "reduction": "sum"},
        "simpo": {"beta": 2.0, "margin": 0.5},
        "cpo": {"beta": 0.1, "nll": 1.0},
        "orpo": {"weight": 0.1},
        "chosen_nll": {"base": None, "weight": 1.0, "reduction": "mean", "of": "chosen"},
        "rdpo": {"beta": 0.1, "noise": 0.1, "clip": 100.0},
        "f_dpo": {"beta": 0.1, "divergence": "jensen_shannon", "alpha": 0.5, "clip": 50.0},
        "hypo": {"beta": 0.1, "kl": 1e-4},
        "rebel": {"eta": 1.0, "reduction": "sum"},
        "copg": {"beta": 0.1, "reduction": "sum"},
        "gpo": {"beta": 0.001, "clip": None, "reduction": "sum"},
        "mnpo": {"eta": 0.005, "tau": 0.0017, "weights": [0.6, 0.3, 0.1]},
        "tgdpo": {"beta": 0.1, "alpha": 0.5},
        "ofs": {"beta": 0.1, "alpha": 0.1, "most": 5.0, "slow": False},
        "chord": {"base": None, "mu": 0.9, "mu_end": 0.05, "anneal": 4, "by_token": False},
        "srpo": {"beta": 0.1, "alpha": 0.5},
        "rloo": {"beta": 0.05, "clip": 0.2, "returns": "last"},
        "grpo": {"beta": 0.04, "clip": 0.2},
        "opmd": {"tau": 0.1},
        "asymre": {"shift": -0.1},
        "kto": {"beta": 0.1, "desirable": 1.0, "undesirable": 1.0, "threshold": None},
        "a_lol": {"clip": 0.9},
        "pro": {"nll": 0.05},
        "trpa": {"beta": 0.1, "best": 2.5, "highest": 1.0, "kl": 0.001},
        "negative_log_likelihood": {},
        "generative_preference": {},
        "bt": {"strength": "label", "center": 0.0},
        "rated_preference": {"strength": "scale", "weight": 1.0},
        "rating_regression": {"scale": 1.0, "center": 0.0},
        "general_preference": {},
        "bradley_terry_mixture": {"balance": 0.01},
    }
