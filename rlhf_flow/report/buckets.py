"""The layers of stacked bars. A name has the same colour and tint on every page.

The colour is that of the part of the system that causes it: a pair without a verdict has the scorer's colour, a
truncated answer the policy's, a used pair the learner's.
"""

from __future__ import annotations

from collections.abc import Mapping

from rlhf_flow.report.measures import EVAL, LEARNER, OTHER, POLICY, TRAIN
from rlhf_flow.report.svg_chart import Layer, fold
from rlhf_flow.storage.store import STAGES
from rlhf_flow.system.visible_text import visible

BETWEEN = "between stages"
UNKNOWN = "other causes"
STAGE_COLOURS = {
    "sample": (POLICY, 1),
    "score": (TRAIN, 1),
    "late": (TRAIN, 4),
    "mismatch": (LEARNER, 5),
    "select": (LEARNER, 4),
    "anchor": (LEARNER, 3),
    "learn": (LEARNER, 1),
    "publish": (LEARNER, 2),
    "evaluate": (EVAL, 1),
    "label": (TRAIN, 3),
    "refresh": (TRAIN, 2),
    BETWEEN: (OTHER, 1),
}
BUCKET_COLOURS = {
    "used": (LEARNER, 1),
    "paired": (LEARNER, 1),
    "used_tie": (LEARNER, 2),
    "extra": (LEARNER, 3),
    "tie": (TRAIN, 1),
    "low_margin": (TRAIN, 2),
    "inconsistent": (TRAIN, 3),
    "abstained": (TRAIN, 4),
    "overdue": (TRAIN, 5),
    "capped": (TRAIN, 5),
    "unasked": (TRAIN, 5),
    "truncated": (POLICY, 1),
    "identical": (POLICY, 2),
    "duplicate": (POLICY, 2),
    "too_long": (POLICY, 3),
    "mismatched": (POLICY, 4),
    "stale": (POLICY, 5),
    "no_pair": (OTHER, 1),
    "not_selected": (OTHER, 2),
    "not_beaten": (OTHER, 3),
    "below_margin": (OTHER, 4),
    "below_floor": (OTHER, 5),
}
CAUSES = {  # of a missing verdict
    "unclear": (TRAIN, 1),
    "empty": (TRAIN, 2),
    "cut": (TRAIN, 3),
    "failed": (TRAIN, 4),
    "capped": (OTHER, 2),
    "overdue": (OTHER, 3),
    UNKNOWN: (OTHER, 5),
}

Values = Mapping[str, Mapping[int, float]]  # layer -> round -> value


def stages(seconds: Values) -> list[Layer]:
    """Seconds of each stage, in the order of a round; unknown stages come last."""
    order = [*STAGES, *sorted(seconds.keys() - {*STAGES, BETWEEN}), BETWEEN]
    return _layers({name: seconds[name] for name in order if name in seconds}, STAGE_COLOURS, OTHER)


def buckets(counts: Values) -> list[Layer]:
    """Pairs or responses: first the used ones, then the reasons for leaving others out."""
    order = [*BUCKET_COLOURS, *sorted(counts.keys() - BUCKET_COLOURS.keys())]
    return _layers({name: counts[name] for name in order if name in counts}, BUCKET_COLOURS, OTHER)


def causes(counts: Values) -> list[Layer]:
    """The causes of missing verdicts."""
    return _layers({name: counts[name] for name in CAUSES if name in counts}, CAUSES, OTHER)


def styles(shares: Values) -> list[Layer]:
    """Shares of the answers of the policy."""
    return _layers(shares, {name: (POLICY, at % 5 + 1) for at, name in enumerate(sorted(shares))}, POLICY)


def _layers(values: Values, colours: Mapping[str, tuple[str, int]], rest: str) -> list[Layer]:
    unknown = [name for name in values if name not in colours]
    tints = {name: (rest, at % 5 + 1) for at, name in enumerate(unknown)}
    return fold([Layer(visible(name), values[name], *(colours.get(name) or tints[name])) for name in values])
