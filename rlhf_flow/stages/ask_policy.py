"""Score responses, and let the scorer ask a policy of the run if it needs to."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from hashlib import sha256

from rlhf_flow.protocols import Scorer
from rlhf_flow.scorer.asks_policy import AsksPolicy
from rlhf_flow.stages.context import RunContext
from rlhf_flow.types import Message, Policy, Prompt, Rollouts, SamplingParams, Scored


def score(context: RunContext, scorer: Scorer, rollouts: Rollouts, players: Mapping[str, Policy]) -> Scored:
    """The scorer's scores. `players`: the policy of each of `asks_policy.ROLES`."""
    if not isinstance(scorer, AsksPolicy):
        return scorer.score(rollouts)

    def answers(chats: Sequence[Sequence[Message]], role: str, draw: SamplingParams) -> list[list[str]]:
        assert context.render is not None, "a run whose scorer asks a policy has a tokenizer"
        ids = [_id(chat) for chat in chats]
        render = context.render
        asked = {id: Prompt(id, tuple(chat), tuple(render(tuple(chat)))) for id, chat in zip(ids, chats, strict=True)}
        if not asked:
            return []
        found = context.engine.generate(
            tuple(asked.values()), players[role], draw, round=rollouts.round, seed=context.seed
        )
        texts = {
            prompt.id: [one.text for one in group] for prompt, group in zip(found.prompts, found.responses, strict=True)
        }
        return [texts[id] for id in ids]

    return scorer.score_with(rollouts, answers)


def _id(chat: Sequence[Message]) -> str:
    """Of a chat, so that seeds depend on what is asked alone."""
    return sha256(json.dumps([asdict(message) for message in chat]).encode()).hexdigest()[:16]
