"""The loss of a policy on held-out answers that came with the prompts."""

from __future__ import annotations

import numpy as np
import pyarrow as pa

from rlhf_flow.metrics.spacing import spread
from rlhf_flow.metrics.stats import ratio_with_interval, share_with_interval
from rlhf_flow.prompts.pairwise import row_of
from rlhf_flow.seeds import derive
from rlhf_flow.stages.by_source import masks
from rlhf_flow.stages.context import Likelihood, RunContext
from rlhf_flow.stages.policies import PolicyRegistry
from rlhf_flow.storage import parquet as rows
from rlhf_flow.storage.store import StageFacts, StageWriter
from rlhf_flow.storage.tables import Table
from rlhf_flow.types import Policy, Rollouts


def evaluate_likelihood(
    context: RunContext, evaluation: Likelihood, round: int, policies: PolicyRegistry, writer: StageWriter
) -> StageFacts:
    """The metrics, under `eval/`; `_low` and `_high` are 95 % intervals over the rows of the data set:

    loss              mean negative log-likelihood of a token of the answers, nats
    token_accuracy    share of these tokens that the policy finds the likeliest, given all tokens before
    tokens            their number
    loss/<source>     the loss on one source of prompts=mixture
    """
    prompts, seed = context.prompts.held_out(), derive(context.seed, "evaluate")
    pieces = context.sampler.stream(context.engine, prompts, {}, round=round, seed=seed)
    answers = Rollouts.gathered(prompts, pieces, round)
    table = Table((writer.table("evaluation/answers", rows.from_rollouts(answers)),))
    ids = [response.id for group in answers.responses for response in group]
    read = context.learner.spread([table], ids, policies[round])
    loss, right, tokens = (
        np.array([how(one) for one in rows.views(read[name])], dtype=np.float64)
        for name, how in (("logps", lambda one: -one.sum(dtype=np.float64)), ("likeliest", np.sum), ("logps", len))
    )
    asked = [prompt for prompt, group in zip(prompts, answers.responses, strict=True) for _ in group]
    _, row = np.unique([row_of(prompt.id) for prompt in asked], return_inverse=True)

    def by_row(values: np.ndarray) -> np.ndarray:
        """The sum of each row of the data set, whose turns are not independent."""
        return np.bincount(row, weights=values)

    metrics = ratio_with_interval("eval/loss", by_row(loss), by_row(tokens))
    metrics |= share_with_interval("eval/token_accuracy", by_row(right), by_row(tokens))
    metrics["eval/tokens"] = tokens.sum()
    for source, of in masks(asked).items():
        metrics[f"eval/loss/{source}"] = loss[of].sum() / tokens[of].sum()
    if evaluation.samples:
        writer.table("evaluation/compared", _samples(context, evaluation, round, policies[round]))
    return metrics


def _samples(context: RunContext, evaluation: Likelihood, round: int, policy: Policy) -> pa.Table:
    """The policy's own answers to some held-out prompts, evenly spaced, beside those of the start: for the report."""
    prompts, seed = spread(context.prompts.held_out(), evaluation.samples), derive(context.seed, "evaluate")
    answers = context.engine.generate(prompts, policy, evaluation.draw, round=round, seed=seed).responses
    texts = [answer.text for (answer,) in answers]
    start = context.ledger.table(0, "evaluate", "evaluation/compared").read()["answer"].to_pylist() if round else texts
    return pa.table(
        {
            "prompt_id": [prompt.id for prompt in prompts],
            "prompt": [prompt.messages[-1].content for prompt in prompts],
            "start": start,
            "answer": texts,
            "length": [len(answer.tokens) for (answer,) in answers],
            "truncated": [answer.truncated for (answer,) in answers],
        }
    )
