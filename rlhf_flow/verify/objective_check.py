"""What is true of every loss, checked for one objective: `rlhf_flow.verify(MyObjective())`."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import asdict, replace
from typing import TYPE_CHECKING, Any

import torch

from rlhf_flow.config.own_objective import check_objective
from rlhf_flow.protocols import Objective
from rlhf_flow.system.errors import brief
from rlhf_flow.verify import groups
from rlhf_flow.verify.claim import Finding, below
from rlhf_flow.verify.closed_form_check import EXACT, NUMERIC, agreement, from_differences
from rlhf_flow.verify.pairs import at_the_anchors, blocks, draw_pairs, gradients, tensors

if TYPE_CHECKING:
    import pandas as pd

Formula = Callable[[Any], Any]  # a ClosedForm, or a GroupFormula for an objective of groups
COUNT = 12  # pairs


def verify(objective: Objective, formula: Formula | None = None, *, surrogate: bool = False) -> pd.DataFrame:
    """One row for each check of an objective: what, measured, rule, holds.

    Its gradient is compared with finite differences, and its loss must not depend on padding or on the other rows of
    the batch. Where policy and anchors are equal, a step down its gradient must make the preferred answer likelier.
    `formula`: also compares loss and gradient with yours: a function of one `OnePair` (of one `OneGroup` for an
    objective of groups) that returns the loss and its gradient. `surrogate`: parts of the loss are treated as constant,
    so that its gradient is not its derivative.

    Raises ValueError for anything but an objective, and for one that trains reward models, and what it raises.
    """
    import pandas as pd

    check_objective("verify: objective", objective)
    if formula is not None and not callable(formula):
        raise ValueError(
            f"verify: formula={brief(formula)}: expected a function of one pair or group. Fix: leave it out."
        )
    needs = objective.needs
    if needs.readout != "logps":
        raise ValueError(
            f"verify checks losses of a policy, and {objective} trains a reward model. Fix: test it alone."
        )
    check = _of_groups if needs.examples == "groups" else _of_pairs
    return pd.DataFrame([asdict(finding) for finding in check(objective, formula, surrogate)])


def _of_pairs(objective: Objective, formula: Formula | None, surrogate: bool) -> Iterator[Finding]:
    pairs = draw_pairs(0, count=COUNT)
    values, slopes = gradients(objective, tensors(pairs, objective))
    padded = tensors(pairs, objective, left=1, right=2, padding=-7.0)
    yield below("the loss with padding, largest change", _change(objective.loss(padded).values, values), EXACT)
    objective.loss(padded).values.sum().backward()
    junk = [one.values.grad[~one.mask].abs().max() for one in blocks(padded).values() if one.values.grad is not None]
    yield below("the gradient by padding", max(map(float, junk), default=0.0), EXACT)
    alone = torch.cat([objective.loss(tensors([pair], objective)).values for pair in pairs])
    yield below("the loss of a pair alone, largest change", _change(alone, values), EXACT)
    if not surrogate:
        differences = from_differences(objective, pairs, values, slopes)
        yield below("the gradient against finite differences", differences, NUMERIC)
    equal = [at_the_anchors(replace(pair, p=1.0), p=1.0, worth=(0.9, 0.2)) for pair in pairs]
    _, slopes = gradients(objective, tensors(equal, objective))
    raised = max(sum(slope["first"]) / len(slope["first"]) for slope in slopes)
    yield below("the slope by the preferred answer, policy at its anchors", raised, 0)
    if formula is not None:
        yield from agreement([(objective, formula)], surrogate=surrogate)


def _of_groups(objective: Objective, formula: Formula | None, surrogate: bool) -> Iterator[Finding]:
    drawn = groups.draw_groups(0)
    values, slopes = groups.gradients(objective, drawn)
    alone = torch.cat([objective.loss(groups.tensors([group], objective)).values for group in drawn])
    yield below("the loss of a group alone, largest change", _change(alone, values), EXACT)
    if not surrogate:
        differences = groups.from_differences(objective, drawn, slopes)
        yield below("the gradient against finite differences", differences, NUMERIC)
    if formula is not None:
        yield from groups.agreement_of_groups([(objective, formula)], surrogate=surrogate)


def _change(values: torch.Tensor, before: list[float]) -> float:
    return float((values.detach() - torch.tensor(before, dtype=values.dtype)).abs().max())
