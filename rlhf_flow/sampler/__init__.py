"""Samplers: the policies from which a round's responses are sampled."""

from rlhf_flow.sampler.draws import DrawsSampler
from rlhf_flow.sampler.mixture import MixtureSampler
from rlhf_flow.sampler.policy import PolicySampler
from rlhf_flow.sampler.policy_and_reference import PolicyAndReference

PARTS: dict[str, type] = {
    "policy": PolicySampler,
    "policy_and_reference": PolicyAndReference,
    "mixture": MixtureSampler,
    "draws": DrawsSampler,
}
