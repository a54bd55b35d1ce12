"""Greedy answers as tokens and log-probs: of plain transformers without cache and padding, and of engines."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from transformers import PreTrainedModel

from rlhf_flow.protocols import Engine
from rlhf_flow.types import Policy, Prompt, SamplingParams

GREEDY = SamplingParams(n=1, temperature=0, max_tokens=10)
PROMPTS = (
    Prompt("short", (), (1, 40, 41)),
    Prompt("long", (), (1, *range(60, 90), 7, 9)),
    Prompt("other", (), (1, 200, 8, 130, 131, 90)),
)


@dataclass(frozen=True)
class Answers:
    """Tokens and log-probs, one entry per prompt."""

    tokens: tuple[tuple[int, ...], ...]
    logps: tuple[tuple[float, ...], ...]

    def off(self, others: Answers) -> float:
        """The largest difference of log-probs in nats; infinity if a token differs."""
        if self.tokens != others.tokens:
            return float("inf")
        pairs = zip(self.logps, others.logps, strict=True)
        return max(float(np.abs(np.subtract(ours, theirs)).max()) for ours, theirs in pairs)


def expected(lm: PreTrainedModel, ends: Sequence[int]) -> Answers:
    """Answers of plain transformers, with a forward pass over the whole sequence for each token."""
    tokens, logps = [], []
    for prompt in PROMPTS:
        said: list[int] = []
        worth: list[float] = []
        while len(said) < GREEDY.max_tokens and not set(said) & set(ends):
            with torch.inference_mode():
                logits = lm(input_ids=torch.tensor([[*prompt.tokens, *said]]), use_cache=False).logits[0, -1]
            said.append(int(logits.argmax()))
            worth.append(float(logits.float().log_softmax(-1)[said[-1]]))
        tokens.append(tuple(said))
        logps.append(tuple(worth))
    return Answers(tuple(tokens), tuple(logps))


def drawn(engine: Engine, policy: Policy) -> Answers:
    """Answers of an engine."""
    rollouts = engine.generate(PROMPTS, policy, GREEDY, round=1, seed=0)
    responses = [response for (response,) in rollouts.responses]
    return Answers(
        tuple(tuple(response.tokens.tolist()) for response in responses),
        tuple(tuple(() if response.logps is None else response.logps.tolist()) for response in responses),
    )
