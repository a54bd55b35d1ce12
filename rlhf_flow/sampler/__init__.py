"""Who answers: which policies a round's responses are drawn from."""

from rlhf_flow.sampler.policy import PolicySampler

PARTS: dict[str, type] = {"policy": PolicySampler}
