"""The samplers and selectors that most claims share."""

from __future__ import annotations

import numpy as np

from rlhf_flow.sampler.mixture import MixtureSampler
from rlhf_flow.sampler.policy import PolicySampler
from rlhf_flow.sampler.policy_and_reference import PolicyAndReference
from rlhf_flow.selector.all_pairs import AllPairs
from rlhf_flow.selector.only_pair import OnlyPair
from rlhf_flow.types import SamplingParams
from rlhf_flow.verify.play import Played

# With an engine that enumerates, every answer against every other, weighted by its probability: exact expectations.
SELF_PLAY = PolicySampler(draws=[SamplingParams("policy", n=2)])
EXACT = AllPairs(label="soft")
# With one that samples, two answers a prompt, and a winner that is drawn by the preference.
SAMPLED = OnlyPair(label="sampled")


def mixture(weight: float) -> MixtureSampler:
    return MixtureSampler(SamplingParams("mixture", n=2), weight=weight)


def policy_and_reference() -> PolicyAndReference:
    return PolicyAndReference(SamplingParams("policy", n=1), SamplingParams("reference", n=1))


def log_change(played: Played, round: int, game: int = 0) -> np.ndarray:
    """What a round added to the log-probabilities, centred: a constant says nothing. [K]"""
    policies = played.of(game)
    change = np.log(policies[round]) - np.log(policies[round - 1])
    return np.asarray(change - change.mean())
