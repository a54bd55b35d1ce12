"""Engines: they generate answers with exactly the policy that the caller names."""

from rlhf_flow.engine.huggingface import HuggingFace
from rlhf_flow.engine.none import NoEngine
from rlhf_flow.engine.vllm.spec import VLLM

PARTS: dict[str, type] = {
    "huggingface": HuggingFace,
    "vllm": VLLM,
    "none": NoEngine,
}
