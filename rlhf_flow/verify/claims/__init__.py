"""All claims."""

from __future__ import annotations

from rlhf_flow.verify.claim import Claim
from rlhf_flow.verify.claims import (
    constants,
    data_sets,
    dno,
    egpo,
    exploration,
    family_adapters,
    family_groups,
    family_judges,
    family_losses,
    family_optima,
    family_pairs,
    family_sources,
    inpo,
    losses,
    nash_md,
    online_dpo,
    online_ipo,
    recipes,
    squared_anchor,
)

CLAIMS: tuple[Claim, ...] = (
    *losses.CLAIMS,
    *family_losses.CLAIMS,
    *online_ipo.CLAIMS,
    *online_dpo.CLAIMS,
    *nash_md.CLAIMS,
    *inpo.CLAIMS,
    *dno.CLAIMS,
    *exploration.CLAIMS,
    *egpo.CLAIMS,
    *constants.CLAIMS,
    *squared_anchor.CLAIMS,
    *recipes.CLAIMS,
    *family_pairs.CLAIMS,
    *data_sets.CLAIMS,
    *family_groups.CLAIMS,
    *family_sources.CLAIMS,
    *family_optima.CLAIMS,
    *family_judges.CLAIMS,
    *family_adapters.CLAIMS,
)
