"""The claims of the papers, checked on games with exact solutions.

Public, to check your own objective. The package can be called:

    import rlhf_flow as rf
    checks = rf.verify(MyObjective())  # or rf.verify(MyObjective(), closed_form)
    assert checks.holds.all()

Its equilibrium on a game whose solution is known:

    from rlhf_flow.verify import Game, gap, nash, play
"""

from __future__ import annotations

import sys
from types import ModuleType

from rlhf_flow.games.equilibrium import gap, kl, nash, softmax, tilted
from rlhf_flow.games.game import Board, Game, bradley_terry
from rlhf_flow.games.solvers import Choice, Descent, Fit
from rlhf_flow.verify.closed_form_check import agreement
from rlhf_flow.verify.objective_check import verify
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


class _CallableModule(ModuleType):
    __call__ = staticmethod(verify)


sys.modules[__name__].__class__ = _CallableModule
