"""What a considered pair is taught as, if at all: the one place where verdicts become labels.

The three kinds are not interchangeable: an implicit reward is calibrated under soft and sampled labels only.
"""

from __future__ import annotations

import math

from rlhf_flow.seeds import derive
from rlhf_flow.types import Pair, Prompt, Response

LABELS = ("hard", "soft", "sampled")


def labelled(
    kind: str, prompt: Prompt, sides: tuple[Response, Response], *, wins: float, tied: bool = False
) -> tuple[str, Pair | None]:
    """The bucket of a considered pair, and the pair itself where it is used. `wins` = P(sides[0] beats sides[1]).

    `first` is the side that won, or is likelier to:
    hard     preference 1; a tie is dropped (`tie`)
    soft     preference P(first beats second); a tie is 1/2 (`used_tie`)
    sampled  preference 1, with first drawn by P from the responses' own seeds; a tie is 1/2 (`used_tie`): the same in
             the mean as a coin, with less noise, and never a win

    A tie is P = 1/2 exactly, or whatever the selector says is `tied`.
    """
    one, other = sides
    if one.tokens.shape == other.tokens.shape and (one.tokens == other.tokens).all():
        return "identical", None
    if math.isnan(wins):
        return "abstained", None
    if tied or wins == 0.5:
        if kind == "hard":
            return "tie", None
        return "used_tie", Pair(prompt.id, first=one.id, second=other.id, preference=0.5)
    one_first = coin(one, other) < wins if kind == "sampled" else wins > 0.5
    first, second, p = (one, other, wins) if one_first else (other, one, 1 - wins)
    return "used", Pair(prompt.id, first=first.id, second=second.id, preference=p if kind == "soft" else 1.0)


def coin(one: Response, other: Response) -> float:
    """A number in [0, 1) that belongs to these two responses; the run's seed is in theirs."""
    return derive("label", one.id, one.seed, other.id, other.seed) / 2**62
