"""All pairs of a good response and a clearly worse one.

Direct Nash Optimization, Rosset et al. 2024, arXiv:2404.03715, algorithm 2: its filter replaces the soft labels of the
theory, so the margins are part of the method.
"""

from __future__ import annotations

import math
from collections import Counter
from dataclasses import dataclass
from itertools import combinations

import numpy as np

from rlhf_flow.selector.pairing import Choice, Pairing
from rlhf_flow.types import Response, Scored, Selection


@dataclass(frozen=True)
class Margin(Pairing):
    """All pairs whose better side has a utility of at least `floor`, and the other one less by at least a margin.

    The defaults are the paper's, for a judge that gives 0 to 6 points. Utilities decide which side is better, so the
    label is hard. Unused candidate pairs: `below_floor`, `below_margin`, and `abstained` without a utility.
    """

    floor: float | None = 5.0  # minimum utility of the better side; null: any
    margin: float = 2.0  # minimum difference of the utilities
    student_margin: float = 1.0  # the same if the better side was sampled, not a candidate of the prompt
    repeat_ngram: int = 0  # a response that repeats an n-gram of this length too often is worst; 0: off
    repeat_most: int = 3  # how often an n-gram may occur

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.label != "hard":
            raise ValueError(
                f"selector.label must be hard for selector=margin, where utilities decide, got {self.label}. "
                "Fix: selector=all_pairs, which takes every label."
            )
        for key, rule, ok in (
            ("margin", "> 0, or equals would beat each other (try 2)", self.margin > 0),
            ("student_margin", "> 0, or equals would beat each other (try 1)", self.student_margin > 0),
            ("repeat_ngram", ">= 0, a number of tokens (0: off)", self.repeat_ngram >= 0),
            ("repeat_most", ">= 1, a number of times (try 3)", self.repeat_most >= 1),
        ):
            if not ok:
                raise ValueError(f"selector.{key} must be {rule}, got {vars(self)[key]}")

    def select(self, scored: Scored) -> Selection:
        def choose(scored: Scored, b: int, left: list[int]) -> list[Choice]:
            responses = scored.rollouts.responses[b]
            worth = {k: -math.inf if self._repeats(responses[k]) else float(scored.utility[b, k]) for k in left}
            return [self._choice(responses, worth, i, j) for i, j in combinations(left, 2)]

        return self.pairs(scored, choose)

    def _choice(self, responses: tuple[Response, ...], worth: dict[int, float], i: int, j: int) -> Choice:
        high, low = (i, j) if worth[i] >= worth[j] else (j, i)
        floor = -math.inf if self.floor is None else self.floor
        margin = self.margin if responses[high].source == "dataset" else self.student_margin
        if math.isnan(worth[i]) or math.isnan(worth[j]):
            return Choice(high, low, wins=math.nan)
        if worth[high] == -math.inf or worth[high] < floor:
            return Choice(high, low, refused="below_floor")
        if not worth[high] - worth[low] >= margin:
            return Choice(high, low, refused="below_margin")
        return Choice(high, low, wins=1.0)

    def _repeats(self, response: Response) -> bool:
        """Whether an n-gram of `repeat_ngram` tokens occurs more than `repeat_most` times."""
        n = self.repeat_ngram
        if n == 0 or len(response.tokens) - n < self.repeat_most:  # too short
            return False
        windows = np.lib.stride_tricks.sliding_window_view(response.tokens, n).tolist()
        return max(Counter(map(tuple, windows)).values()) > self.repeat_most
