"""Selectors: which responses become pairs, and with which label."""

from rlhf_flow.selector.all_pairs import AllPairs
from rlhf_flow.selector.best_and_worst import BestAndWorst
from rlhf_flow.selector.couples import Couples
from rlhf_flow.selector.cross import Cross
from rlhf_flow.selector.group import Group
from rlhf_flow.selector.margin import Margin
from rlhf_flow.selector.only_pair import OnlyPair
from rlhf_flow.selector.random import Random
from rlhf_flow.selector.rejection import Rejection
from rlhf_flow.selector.single import Single
from rlhf_flow.selector.tournament import Tournament

PARTS: dict[str, type] = {
    "only_pair": OnlyPair,
    "random": Random,
    "best_and_worst": BestAndWorst,
    "tournament": Tournament,
    "margin": Margin,
    "all_pairs": AllPairs,
    "cross": Cross,
    "couples": Couples,
    "group": Group,
    "single": Single,
    "rejection": Rejection,
}
