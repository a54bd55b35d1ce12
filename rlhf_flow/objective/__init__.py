"""What is minimised: pure functions of log-probs."""

from __future__ import annotations

from rlhf_flow.objective.dpo import DPO

PARTS: dict[str, type] = {"dpo": DPO}
