"""rlhf_flow: online, iterative preference optimisation of language models."""

__version__ = "0.1.0"
