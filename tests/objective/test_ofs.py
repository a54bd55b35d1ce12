"""OFS-DPO by hand: DPO and a competition with the other policy."""

from __future__ import annotations

import math

import pytest

from rlhf_flow.objective.dpo import DPO
from rlhf_flow.objective.ofs import OFS
from rlhf_flow.verify.pairs import draw_pairs, tensors
from tests.support.pairs import metric

PAIRS = draw_pairs(0)


def nats(logit: float) -> float:
    """-log sigma."""
    return math.log1p(math.exp(-logit))


@pytest.mark.parametrize("slow", [False, True])
def test_the_loss_is_dpo_and_the_competition(slow: bool) -> None:
    objective = OFS(beta=0.5, alpha=0.25, most=0.3, slow=slow)
    found = objective.loss(tensors(PAIRS, objective)).values.tolist()
    dpo = DPO(0.5).loss(tensors(PAIRS, objective)).values.tolist()
    leads = [0.5 * pair.gap("sibling") for pair in PAIRS]
    assert any(abs(lead) > 0.3 for lead in leads) and any(abs(lead) < 0.3 for lead in leads)
    for pair, lead, loss, plain in zip(PAIRS, leads, found, dpo, strict=True):
        if slow:
            won, lost = (-nats(-min(side, 0.3)) for side in (lead, -lead))
        else:
            won, lost = nats(lead), nats(-lead)
        assert loss == pytest.approx(plain + 0.25 * (pair.p * won + (1 - pair.p) * lost))


def test_its_metrics_are_those_of_dpo_and_the_lead() -> None:
    objective = OFS(beta=0.5)
    expected = [(2 * pair.p - 1) * 0.5 * pair.gap("sibling") for pair in PAIRS]
    assert metric(objective, PAIRS, "lead") == pytest.approx(expected)
    assert metric(objective, PAIRS, "margin") == metric(DPO(0.5), PAIRS, "margin")


def test_the_slow_policy_trains_in_odd_rounds() -> None:
    assert [OFS().at(round).slow for round in range(1, 6)] == [True, False, True, False, True]
