"""Every loss and its gradient against the formula of its paper (`rlhf_flow.verify.formulas`)."""

from __future__ import annotations

import math
from collections.abc import Iterator

from rlhf_flow.objective.dno import DNO
from rlhf_flow.objective.dpo import DPO
from rlhf_flow.objective.inpo import INPO
from rlhf_flow.objective.ipo import IPO
from rlhf_flow.objective.nash_md import NashMD
from rlhf_flow.objective.selm import SELM
from rlhf_flow.objective.slic import SLiC
from rlhf_flow.objective.sppo import SPPO
from rlhf_flow.objective.squared_anchor import SquaredAnchor
from rlhf_flow.objective.xpo import XPO
from rlhf_flow.verify import formulas
from rlhf_flow.verify.claim import Claim, Finding
from rlhf_flow.verify.closed_form_check import agreement

REDUCTIONS = ("sum", "mean")
SAYS = "loss and gradient are those of the formula"


def dpo(seed: int) -> Iterator[Finding]:
    return agreement([(DPO(beta), formulas.logistic(beta)) for beta in (0.1, 1.3)], seed=seed)


def ipo(seed: int) -> Iterator[Finding]:
    constants = [(tau, reduction) for tau in (0.05, 1.0, 5.0) for reduction in REDUCTIONS]
    return agreement([(IPO(*some), formulas.square(*some)) for some in constants], seed=seed)


def slic(seed: int) -> Iterator[Finding]:
    constants = [(beta, reduction) for beta in (0.002, 0.4, 3.0) for reduction in REDUCTIONS]
    return agreement([(SLiC(*some), formulas.hinge(*some)) for some in constants], seed=seed)


def xpo(seed: int) -> Iterator[Finding]:
    constants = [(0.1, 1e-5, 500.0), (0.2, 0.0, 500.0), (0.5, 0.3, 0.5)]
    variants = [(XPO(beta, [alpha], clip), formulas.explored(beta, alpha, clip)) for beta, alpha, clip in constants]
    return agreement(variants, seed=seed)


def selm(seed: int) -> Iterator[Finding]:
    constants = [(0.01, 0.001), (0.5, 0.0), (0.5, 2.0)]
    variants = [
        (SELM(*some, variant), formulas.self_explored(*some))
        for some in constants
        for variant in ("practical", "theoretical")
    ]
    return agreement(variants, seed=seed)


def dno(seed: int) -> Iterator[Finding]:
    constants = [(0.1, 0.0), (0.7, 0.2), (2.0, 0.2)]
    return agreement([(DNO(*some), formulas.cross_entropy_of_rates(*some)) for some in constants], seed=seed)


def inpo(seed: int) -> Iterator[Finding]:
    constants = [(0.005, None, "sum"), (0.2, 0.1, "mean"), (2.0, 1.9, "sum")]
    variants = [
        (INPO(eta, tau, reduction=reduction), formulas.anchored_square(eta, eta / 3 if tau is None else tau, reduction))
        for eta, tau, reduction in constants
    ]
    return agreement(variants, seed=seed)


def squared_anchor(seed: int) -> Iterator[Finding]:
    constants = [(0.005, 0.0, "sum"), (0.005, 0.004, "mean"), (0.5, 0.2, "mean"), (2.0, 0.0, "sum")]
    return agreement([(SquaredAnchor(*some), formulas.anchored_square(*some)) for some in constants], seed=seed)


def nash_md(seed: int) -> Iterator[Finding]:
    variants = [
        (NashMD(), formulas.policy_gradient(0.008, math.inf)),
        (NashMD(0.4, 0.3), formulas.policy_gradient(0.4, 0.3)),
        (NashMD(0.0, 0.3), formulas.policy_gradient(0.0, 0.3)),
    ]
    return agreement(variants, seed=seed, surrogate=True)


def sppo(seed: int) -> Iterator[Finding]:
    constants = [(1000.0, "sum"), (3.0, "mean")]
    return agreement([(SPPO(*some), formulas.two_squares(*some)) for some in constants], seed=seed)


CLAIMS = (
    Claim("L1", "DPO", SAYS, "Rafailov et al. 2023, eq. 7", dpo),
    Claim("L2", "IPO", SAYS, "Azar et al. 2023, eq. 17", ipo),
    Claim("L3", "SLiC", SAYS, "Guo et al. 2024, eq. 3", slic),
    Claim("L4", "XPO", SAYS, "Xie et al. 2024, Alg. 1", xpo),
    Claim("L5", "SELM", SAYS, "Zhang et al. 2024, arXiv:2405.19332, eq. 4.2", selm),
    Claim("L6", "DNO", SAYS, "Rosset et al. 2024, Alg. 1", dno),
    Claim("L7", "INPO", SAYS, "Zhang et al. 2024, arXiv:2407.00617, eq. 8", inpo),
    Claim("L8", "squared anchor", SAYS, "Zhang et al. 2024, arXiv:2407.00617, eq. 8", squared_anchor),
    Claim("L9", "Nash-MD-PG", SAYS, "Munos et al. 2023, sec. 7", nash_md),
    Claim("L10", "SPPO", SAYS, "Wu et al. 2024, arXiv:2405.00675", sppo),
)
