"""The claims of the papers, checked on games with exact solutions.

Public, to check your own objective the same way:

    from rlhf_flow.verify import Game, gap, nash, play

and its loss against your own formula, on pairs of responses of several tokens:

    from rlhf_flow.verify import agreement
    assert all(finding.holds for finding in agreement([(MyObjective(), closed_form)]))
"""

from __future__ import annotations

from rlhf_flow.games.equilibrium import gap, kl, nash, softmax, tilted
from rlhf_flow.games.game import Board, Game, bradley_terry
from rlhf_flow.games.solvers import Choice, Descent, Fit
from rlhf_flow.verify.closed_form_check import agreement
from rlhf_flow.verify.pairs import OnePair
from rlhf_flow.verify.play import Played, play

__all__ = [
    "Board",
    "Choice",
    "Descent",
    "Fit",
    "Game",
    "OnePair",
    "Played",
    "agreement",
    "bradley_terry",
    "gap",
    "kl",
    "nash",
    "play",
    "softmax",
    "tilted",
]
