"""Losses: pure functions of log-probs, or of the outputs of a reward model."""

from __future__ import annotations

from rlhf_flow.objective.bradley_terry import BradleyTerry
from rlhf_flow.objective.dno import DNO
from rlhf_flow.objective.dpo import DPO
from rlhf_flow.objective.general_preference import GeneralPreference
from rlhf_flow.objective.generative_preference import GenerativePreference
from rlhf_flow.objective.inpo import INPO
from rlhf_flow.objective.ipo import IPO
from rlhf_flow.objective.nash_md import NashMD
from rlhf_flow.objective.rated_preference import RatedPreference
from rlhf_flow.objective.rating_regression import RatingRegression
from rlhf_flow.objective.selm import SELM
from rlhf_flow.objective.slic import SLiC
from rlhf_flow.objective.sppo import SPPO
from rlhf_flow.objective.squared_anchor import SquaredAnchor
from rlhf_flow.objective.xpo import XPO

PARTS: dict[str, type] = {
    "dpo": DPO,
    "ipo": IPO,
    "slic": SLiC,
    "xpo": XPO,
    "selm": SELM,
    "dno": DNO,
    "squared_anchor": SquaredAnchor,
    "inpo": INPO,
    "nash_md": NashMD,
    "sppo": SPPO,
    "generative_preference": GenerativePreference,  # from here: losses of judges
    "bt": BradleyTerry,
    "rating_regression": RatingRegression,
    "rated_preference": RatedPreference,
    "general_preference": GeneralPreference,
}
