"""Prompt sources: x ~ rho."""

from rlhf_flow.prompts.huggingface import HuggingFace
from rlhf_flow.prompts.jsonl import Jsonl
from rlhf_flow.prompts.mixture import Mixture
from rlhf_flow.prompts.parquet import Parquet

PARTS: dict[str, type] = {"jsonl": Jsonl, "parquet": Parquet, "huggingface": HuggingFace, "mixture": Mixture}
