"""Samplers and selectors of the claims."""

from __future__ import annotations

from rlhf_flow.sampler.mixture import MixtureSampler
from rlhf_flow.sampler.policy import PolicySampler
from rlhf_flow.sampler.policy_and_reference import PolicyAndReference
from rlhf_flow.selector.all_pairs import AllPairs
from rlhf_flow.selector.only_pair import OnlyPair
from rlhf_flow.types import SamplingParams

# With an engine that enumerates: all pairs of answers, weighted by their probabilities, so expectations are exact.
SELF_PLAY = PolicySampler(draws=[SamplingParams("policy", n=2)])
EXACT = AllPairs(label="soft")
# With an engine that samples: two answers per prompt, and a winner sampled by the preference.
SAMPLED = OnlyPair(label="sampled")


def mixture(weight: float) -> MixtureSampler:
    return MixtureSampler(SamplingParams("mixture", n=2), weight=weight)


def policy_and_reference() -> PolicyAndReference:
    return PolicyAndReference(SamplingParams("policy", n=1), SamplingParams("reference", n=1))
