"""Losses and gradients against the formulas of the papers: the claims L1 and on of `rlhf-flow verify`."""

from __future__ import annotations

from dataclasses import replace

import pytest

from rlhf_flow.objective import PARTS
from rlhf_flow.verify import groups as of_groups
from rlhf_flow.verify.claim import Claim
from rlhf_flow.verify.claims import family_losses, losses
from rlhf_flow.verify.group_formulas import ranking
from rlhf_flow.verify.margin_formulas import with_likelihood
from rlhf_flow.verify.pairs import Gradient, OnePair, draw_pairs, tensors
from tests.support.pairs import agrees

CLAIMS = sorted((*losses.CLAIMS, *family_losses.CLAIMS), key=lambda claim: claim.seconds)


@pytest.mark.parametrize("claim", [pytest.param(claim, id=claim.id) for claim in CLAIMS])
def test_the_formula_of_the_paper(claim: Claim) -> None:
    findings = list(claim.check(0))
    assert findings
    assert [one for one in findings if not one.holds] == []


def test_answers_of_equal_worth_are_ranked() -> None:
    found = of_groups.agreement_of_groups([(PARTS["pro"](), ranking(0.05))], levels=True)
    assert [one for one in found if not one.holds] == []


def test_the_likelihood_of_a_batch_is_that_of_its_preferred_tokens() -> None:
    objective = PARTS["chosen_nll"](PARTS["dpo"](), 0.7, "batch")
    pairs = draw_pairs(3)
    given = replace(tensors(pairs, objective), chosen_tokens=2.5)
    expected = [with_likelihood(0.1, 0.7, "batch", 2.5)(pair)[0] for pair in pairs]
    assert objective.loss(given).values.tolist() == pytest.approx(expected)


def test_the_sum_of_a_third_answer_s_likelihood() -> None:
    base = PARTS["dpo"]()
    pairs = draw_pairs(4)

    def closed_form(pair: OnePair) -> tuple[float, Gradient]:
        loss, slopes = with_likelihood(0.1, 0.0, "sum")(pair)
        return loss - 0.3 * pair.sum("current", "extra"), slopes | {"extra": [-0.3] * pair.length("extra")}

    agrees(PARTS["chosen_nll"](base, 0.3, "sum", of="extra"), closed_form, pairs)


def test_supervised_fine_tuning_is_a_mean_over_tokens() -> None:
    """Of the batch: `tokens` is the mean number of response tokens of a group."""
    objective, groups = PARTS["negative_log_likelihood"](), of_groups.draw_groups(5)
    given = replace(of_groups.tensors(groups, objective), tokens=2.5)
    expected = [-sum(group.sum("current", i) for i in range(group.size)) / 2.5 for group in groups]
    assert objective.loss(given).values.tolist() == pytest.approx(expected)
