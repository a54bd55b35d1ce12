"""Pairs of a data set that are added to those of each round."""

from __future__ import annotations

import numpy as np

from rlhf_flow.stages.context import RunContext
from rlhf_flow.storage import parquet as rows
from rlhf_flow.storage.store import StageFacts, StageWriter
from rlhf_flow.types import Pair, Prompt, Response, Rollouts, SamplingParams, Selection

DRAW = "given"  # of the responses' ids


def add_given(context: RunContext, round: int, writer: StageWriter, selected: int) -> StageFacts:
    """Write `share` times as many given pairs as were selected, or as many as the round's data has.

    Each round shuffles the data anew. Facts: given/used, given/identical, and the data's given/sha256.
    """
    if context.given is None:
        return {}
    wanted = int(np.ceil(context.given.share * selected))
    prompts, groups, pairs, identical = list[Prompt](), list[tuple[Response, ...]](), list[Pair](), 0
    for prompt in context.given.prompts.batch(round):
        if len(pairs) == wanted:
            break
        chosen, rejected = (_response(prompt, name, round) for name in (context.given.chosen, context.given.rejected))
        if chosen.text == rejected.text:
            identical += 1
            continue
        prompts.append(prompt)
        groups.append((chosen, rejected))
        pairs.append(Pair(prompt.id, first=chosen.id, second=rejected.id, preference=1.0))
    if pairs:
        writer.table("given/responses", rows.from_rollouts(Rollouts(round, tuple(prompts), tuple(groups))))
        writer.table("pairs/given", rows.from_selection(Selection(tuple(pairs), {}, {})))
    return {"given/used": len(pairs), "given/identical": identical, "given/sha256": context.given.prompts.sha256}


def _response(prompt: Prompt, name: str, round: int) -> Response:
    given = prompt.candidates[name]
    return Response(
        id=f"{round}/{DRAW}-{name}/0/{prompt.id}",
        tokens=np.asarray(given.tokens, np.int32),
        text=given.text,
        logps=None,
        truncated=False,
        draw=SamplingParams(f"{DRAW}-{name}", n=1, max_tokens=len(given.tokens)),
        seed=0,
        policy="",
        source="dataset",
    )
