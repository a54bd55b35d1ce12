"""From a verdict to the label of a candidate pair.

The kinds of label are not interchangeable: only soft and sampled labels calibrate an implicit reward.
"""

from __future__ import annotations

import math
from typing import NamedTuple

from rlhf_flow.seeds import derive
from rlhf_flow.types import Response

LABELS = ("hard", "soft", "sampled")


class Label(NamedTuple):
    """The label of two responses."""

    swapped: bool  # whether the second response becomes `Pair.first`
    preference: float  # P(first beats second) of the pair


def labelled(
    kind: str,
    one: Response,
    other: Response,
    *,
    wins: float,
    tied: bool = False,
    keep_order: bool = False,
    keep_identical: bool = False,
    margin: float = 0.0,
) -> tuple[str, Label | None]:
    """The bucket of a candidate pair, and its label if it is used. `wins` = P(one beats other); NaN: no verdict.

    `first` is the side that won, or is more likely to win:
    hard     preference 1; a tie is dropped (`tie`)
    soft     preference P(first beats second); a tie is 1/2 (`used_tie`)
    sampled  preference 1, with first sampled by P, seeded by the responses' seeds; a tie is 1/2 (`used_tie`), which has
             the mean of a coin without its noise

    With `keep_order`, `one` stays first, with a preference of 0, or below 1/2, if it lost. A tie is P = 1/2 exactly, or
    what the selector calls `tied`. Equal tokens give no pair (`identical`), or with `keep_identical` one of preference
    1/2. If |P - 1/2| < `margin`, the pair is dropped: `low_margin`, or `tie` for a tie.
    """
    if one.tokens.shape == other.tokens.shape and (one.tokens == other.tokens).all():
        return ("used_tie", Label(False, 0.5)) if keep_identical else ("identical", None)
    if math.isnan(wins):
        return "abstained", None
    if tied or wins == 0.5:
        return ("tie", None) if kind == "hard" or margin > 0 else ("used_tie", Label(False, 0.5))
    if abs(wins - 0.5) < margin:
        return "low_margin", None
    one_first = coin(one, other) < wins if kind == "sampled" else wins > 0.5
    preference = wins if kind == "soft" else float(one_first)  # P(one beats other) of the label
    return "used", Label(False, preference) if one_first or keep_order else Label(True, 1 - preference)


def coin(one: Response, other: Response) -> float:
    """A pseudo-random number in [0, 1) of these two responses; their seeds depend on the run's."""
    return derive("label", one.id, one.seed, other.id, other.seed) / 2**62
