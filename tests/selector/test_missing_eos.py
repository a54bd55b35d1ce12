"""The penalty of answers that were cut, and what recipes keep of them."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from rlhf_flow.selector.best_and_worst import BestAndWorst
from rlhf_flow.selector.length_penalty import penalised
from rlhf_flow.types import Scored
from tests.scorer.conftest import rollouts


def scored() -> Scored:
    """Answers of utility 2, 1 and 0; the best was cut."""
    asked = rollouts(["a", "b", "c"])
    (group,) = asked.responses
    cut = replace(group[0], truncated=True)
    utility = np.array([[2.0, 1.0, 0.0]])
    wins = 1 / (1 + np.exp(utility[:, None, :] - utility[:, :, None]))
    return Scored(replace(asked, responses=((cut, *group[1:]),)), utility, wins)


def test_an_answer_without_its_end_costs_the_penalty() -> None:
    found = penalised(scored(), 0.0, 1.5)
    assert found.utility.tolist() == [[0.5, 1.0, 0.0]]
    assert found.wins[0, 0, 1] == pytest.approx(1 / (1 + np.exp(0.5)))
    assert found.wins[0, 1, 2] == pytest.approx(scored().wins[0, 1, 2])


@pytest.mark.parametrize(("penalty", "best", "worst"), [(0.0, 0, 2), (1.5, 1, 2), (3.0, 1, 0)])
def test_it_may_lose_its_place(penalty: float, best: int, worst: int) -> None:
    given = scored()
    (pair,) = BestAndWorst(truncated="keep", missing_eos_penalty=penalty).select(given).pairs
    ids = [one.id for one in given.rollouts.responses[0]]
    assert (pair.first, pair.second) == (ids[best], ids[worst])


def test_a_penalty_must_be_a_cost() -> None:
    with pytest.raises(ValueError, match=r"selector\.missing_eos_penalty must be >= 0 and finite"):
        BestAndWorst(missing_eos_penalty=-1)


@pytest.mark.parametrize("penalty", [-0.1, float("nan"), float("inf")])
def test_what_is_no_price_is_refused(penalty: float) -> None:
    with pytest.raises(ValueError, match=r"selector\.missing_eos_penalty must be >= 0 and finite"):
        BestAndWorst(missing_eos_penalty=penalty)
