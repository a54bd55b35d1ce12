"""Which answers become pairs, and which label they get."""

from rlhf_flow.selector.best_and_worst import BestAndWorst
from rlhf_flow.selector.only_pair import OnlyPair
from rlhf_flow.selector.random import Random

PARTS: dict[str, type] = {
    "only_pair": OnlyPair,
    "random": Random,
    "best_and_worst": BestAndWorst,
}
