"""Losses of the family on pairs and groups, and their gradients, against the formulas of their papers."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence

from rlhf_flow.objective.a_lol import ALoL
from rlhf_flow.objective.asymre import AsymRE
from rlhf_flow.objective.chosen_nll import ChosenNLL
from rlhf_flow.objective.copg import CoPG
from rlhf_flow.objective.cpo import CPO
from rlhf_flow.objective.dpo import DPO
from rlhf_flow.objective.f_dpo import DIVERGENCES, FDPO
from rlhf_flow.objective.gpo import GPO
from rlhf_flow.objective.grpo import GRPO
from rlhf_flow.objective.hypo import HyPO
from rlhf_flow.objective.kto import KTO
from rlhf_flow.objective.mnpo import MNPO
from rlhf_flow.objective.ofs import OFS
from rlhf_flow.objective.opmd import OPMD
from rlhf_flow.objective.orpo import ORPO
from rlhf_flow.objective.pro import PRO
from rlhf_flow.objective.rdpo import RobustDPO
from rlhf_flow.objective.rebel import REBEL
from rlhf_flow.objective.rloo import RLOO
from rlhf_flow.objective.simpo import SimPO
from rlhf_flow.objective.tgdpo import TGDPO
from rlhf_flow.objective.trpa import TRPA
from rlhf_flow.protocols import Objective
from rlhf_flow.verify import group_formulas as by_group
from rlhf_flow.verify import margin_formulas as by_pair
from rlhf_flow.verify.claim import Claim, Finding
from rlhf_flow.verify.closed_form_check import agreement
from rlhf_flow.verify.groups import GroupFormula, agreement_of_groups
from rlhf_flow.verify.pairs import ClosedForm

SAYS = "loss and gradient are those of the formula"


def _pairs(id: str, method: str, paper: str, *variants: tuple[Objective, ClosedForm], surrogate: bool = False) -> Claim:
    def check(seed: int) -> Iterator[Finding]:
        return agreement(variants, seed=seed, surrogate=surrogate)

    return Claim(id, method, SAYS, paper, check)


def _groups(
    id: str,
    method: str,
    paper: str,
    *variants: tuple[Objective, GroupFormula],
    surrogate: bool = False,
    levels: bool = False,
) -> Claim:
    def check(seed: int) -> Iterator[Finding]:
        return agreement_of_groups(variants, seed=seed, surrogate=surrogate, levels=levels)

    return Claim(id, method, SAYS, paper, check)


def _likelihoods() -> Sequence[tuple[Objective, ClosedForm]]:
    return [
        (ChosenNLL(DPO(0.4), weight, reduction), by_pair.with_likelihood(0.4, weight, reduction))
        for weight, reduction in ((0.3, "sum"), (1.0, "mean"), (0.7, "batch"))
    ]


DIVERGENT = [
    (FDPO(beta, kind, alpha), by_pair.divergence(beta, kind, alpha))
    for beta in (0.1, 0.9)
    for kind in DIVERGENCES
    for alpha in ((0.2, 0.7) if kind == "alpha" else (0.5,))
]
CLAIMS = (
    _pairs(
        "L11",
        "SimPO",
        "Meng et al. 2024, eq. 6",
        *((SimPO(*some), by_pair.simpo(*some)) for some in ((2.0, 0.5), (10.0, 0.0))),
    ),
    _pairs(
        "L12", "CPO", "Xu et al. 2024, eq. 5", *((CPO(*some), by_pair.cpo(*some)) for some in ((0.1, 1.0), (0.7, 0.0)))
    ),
    _pairs("L13", "ORPO", "Hong et al. 2024, eq. 6", *((ORPO(each), by_pair.orpo(each)) for each in (0.1, 1.5))),
    _pairs("L14", "RPO", "Liu et al. 2024, arXiv:2405.16436", *_likelihoods()),
    _pairs(
        "L15",
        "robust DPO",
        "Chowdhury et al. 2024, eq. 12",
        *((RobustDPO(*some), by_pair.robust(*some)) for some in ((0.1, 0.1), (0.8, 0.0), (0.4, 0.4))),
    ),
    _pairs("L16", "f-DPO", "Wang et al. 2023, eq. 14", *DIVERGENT),
    _pairs(
        "L17",
        "HyPO",
        "Song et al. 2024",
        *((HyPO(*some), by_pair.hypo(*some)) for some in ((0.1, 1e-4), (0.6, 0.5))),
        surrogate=True,
    ),
    _pairs(
        "L18",
        "REBEL",
        "Gao et al. 2024, eq. 6",
        *((REBEL(*some), by_pair.relative_rewards(*some)) for some in ((1.0, "sum"), (5.0, "mean"))),
    ),
    _pairs(
        "L19",
        "CoPG",
        "Flet-Berliac et al. 2024, eq. 6",
        *((CoPG(*some), by_pair.contrast(*some)) for some in ((0.1, "sum"), (2.0, "mean"))),
    ),
    _pairs(
        "L20",
        "GPO",
        "Zhang et al. 2024, arXiv:2410.02197, eq. 5.3",
        *(
            (GPO(beta, clip, reduction), by_pair.scores(beta, math.inf if clip is None else clip, reduction))
            for beta, clip, reduction in ((0.001, None, "sum"), (0.5, 1.2, "mean"))
        ),
    ),
    _pairs(
        "L21",
        "MNPO",
        "Wu et al. 2025, eq. 14",
        *(
            (MNPO(eta, tau, list(weights)), by_pair.opponents(eta, tau, weights))
            for eta, tau, weights in ((0.005, 0.0017, (0.6, 0.3, 0.1)), (0.5, 0.0, (1.0,)), (2.0, 1.0, (0.5, 0.5)))
        ),
    ),
    _pairs(
        "L22",
        "TGDPO",
        "Zhu et al. 2025, eq. 14",
        *((TGDPO(*some), by_pair.guided(*some)) for some in ((0.1, 0.5), (0.8, 2.0), (0.3, 0.0))),
    ),
    _groups(
        "L23",
        "RLOO",
        "Ahmadian et al. 2024, eq. 8",
        *(
            (RLOO(beta, clip), by_group.leave_one_out(beta, math.inf if clip is None else clip))
            for beta, clip in ((0.05, 0.2), (0.5, None), (0.0, 0.4))
        ),
        surrogate=True,
    ),
    _groups(
        "L24",
        "GRPO",
        "Shao et al. 2024, eq. 3",
        *(
            (GRPO(beta, clip), by_group.standardised(beta, math.inf if clip is None else clip))
            for beta, clip in ((0.04, 0.2), (0.5, None), (0.0, 0.4))
        ),
    ),
    _groups(
        "L25", "OPMD", "Kimi k1.5, 2025, eq. 3", *((OPMD(tau), by_group.mirror_descent(tau)) for tau in (0.1, 2.0))
    ),
    _groups(
        "L26",
        "AsymRE",
        "Arnal et al. 2025, eq. 2",
        *((AsymRE(each), by_group.asymmetric(each)) for each in (-0.1, 0.3)),
    ),
    _groups(
        "L27",
        "KTO",
        "Ethayarajh et al. 2024, eq. 8",
        *(
            (KTO(*some), by_group.prospects(*some))
            for some in ((0.1, 1.0, 1.0, None), (0.7, 1.3, 0.8, 0.2), (2.0, 1.0, 0.5, None))
        ),
        surrogate=True,
    ),
    _groups(
        "L28",
        "A-LoL",
        "Baheti et al. 2023, eq. 4",
        *((ALoL(clip), by_group.advantages(clip)) for clip in (0.9, 0.2)),
        surrogate=True,
    ),
    _groups("L29", "PRO", "Song et al. 2023, eq. 7", *((PRO(nll), by_group.ranking(nll)) for nll in (0.0, 0.05))),
    _groups(
        "L30",
        "TRPA",
        "Su et al. 2025",
        *((TRPA(*some), by_group.rule_levels(*some)) for some in ((0.1, 2.5, 1.0, 0.001), (1.0, 1.5, 0.5, 0.5))),
        levels=True,
    ),
    _pairs(
        "L31",
        "OFS-DPO",
        "Qi et al. 2024, eq. 3 to 6",
        *((OFS(*some), by_pair.rivals(*some)) for some in ((0.1, 0.1, 5.0, False), (0.8, 0.5, 0.5, True))),
    ),
    _pairs(
        "L32",
        "Triple PO",
        "Saeidi et al. 2024, eq. 5",
        *(
            (ChosenNLL(CPO(beta, 0.0), weight, of="extra"), by_pair.gold(beta, weight))
            for beta, weight in ((0.1, 1.0), (0.7, 0.3))
        ),
        surrogate=True,
    ),
)
