"""Losses: pure functions of log-probs, or of the outputs of a reward model."""

from __future__ import annotations

from rlhf_flow.objective.a_lol import ALoL
from rlhf_flow.objective.asymre import AsymRE
from rlhf_flow.objective.bradley_terry import BradleyTerry
from rlhf_flow.objective.bradley_terry_mixture import BradleyTerryMixture
from rlhf_flow.objective.chord import CHORD
from rlhf_flow.objective.chosen_nll import ChosenNLL
from rlhf_flow.objective.copg import CoPG
from rlhf_flow.objective.cpo import CPO
from rlhf_flow.objective.dno import DNO
from rlhf_flow.objective.dpo import DPO
from rlhf_flow.objective.f_dpo import FDPO
from rlhf_flow.objective.general_preference import GeneralPreference
from rlhf_flow.objective.generative_preference import GenerativePreference
from rlhf_flow.objective.gpo import GPO
from rlhf_flow.objective.grpo import GRPO
from rlhf_flow.objective.hypo import HyPO
from rlhf_flow.objective.inpo import INPO
from rlhf_flow.objective.ipo import IPO
from rlhf_flow.objective.kto import KTO
from rlhf_flow.objective.mnpo import MNPO
from rlhf_flow.objective.nash_md import NashMD
from rlhf_flow.objective.negative_log_likelihood import NegativeLogLikelihood
from rlhf_flow.objective.ofs import OFS
from rlhf_flow.objective.opmd import OPMD
from rlhf_flow.objective.orpo import ORPO
from rlhf_flow.objective.pro import PRO
from rlhf_flow.objective.rated_preference import RatedPreference
from rlhf_flow.objective.rating_regression import RatingRegression
from rlhf_flow.objective.rdpo import RobustDPO
from rlhf_flow.objective.rebel import REBEL
from rlhf_flow.objective.rloo import RLOO
from rlhf_flow.objective.selm import SELM
from rlhf_flow.objective.simpo import SimPO
from rlhf_flow.objective.slic import SLiC
from rlhf_flow.objective.sppo import SPPO
from rlhf_flow.objective.squared_anchor import SquaredAnchor
from rlhf_flow.objective.srpo import SRPO
from rlhf_flow.objective.tgdpo import TGDPO
from rlhf_flow.objective.trpa import TRPA
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
    "simpo": SimPO,
    "cpo": CPO,
    "orpo": ORPO,
    "chosen_nll": ChosenNLL,
    "rdpo": RobustDPO,
    "f_dpo": FDPO,
    "hypo": HyPO,
    "rebel": REBEL,
    "copg": CoPG,
    "gpo": GPO,
    "mnpo": MNPO,
    "tgdpo": TGDPO,
    "rloo": RLOO,
    "grpo": GRPO,
    "opmd": OPMD,
    "asymre": AsymRE,
    "kto": KTO,
    "a_lol": ALoL,
    "pro": PRO,
    "trpa": TRPA,
    "negative_log_likelihood": NegativeLogLikelihood,
    "generative_preference": GenerativePreference,  # from here: losses of judges
    "bt": BradleyTerry,
    "rating_regression": RatingRegression,
    "rated_preference": RatedPreference,
    "general_preference": GeneralPreference,
    "chord": CHORD,
    "ofs": OFS,
    "srpo": SRPO,
    "bradley_terry_mixture": BradleyTerryMixture,
}
