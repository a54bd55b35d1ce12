"""Algorithm 1: online iterative preference optimisation, independent of algorithm, scorer and cluster.

Each line is a stage of a round. A committed stage is read back instead of computed again, so the same loop starts a run
and resumes it.
"""

from __future__ import annotations

import time
from collections.abc import Iterator

from rlhf_flow.stages.anchors import anchor
from rlhf_flow.stages.close_round import close_round, prune_checkpoints, save_last_policy
from rlhf_flow.stages.collect import collect, select
from rlhf_flow.stages.context import RunContext
from rlhf_flow.stages.evaluate import evaluate
from rlhf_flow.stages.late_labels import collect_late_labels
from rlhf_flow.stages.learn import learn
from rlhf_flow.stages.off_policy import measure_mismatch
from rlhf_flow.stages.policies import PolicyRegistry
from rlhf_flow.stages.prefetch import prefetch
from rlhf_flow.stages.update_reward import update_reward
from rlhf_flow.types import RoundRecord


def run(context: RunContext) -> None:
    """Run all `rounds`."""
    for _ in rounds(context):
        pass


def rounds(context: RunContext) -> Iterator[RoundRecord]:
    """Run rounds 1..`context.rounds` that have no record yet, fewer if an alarm stops the run; yield their records.

    Round 0 evaluates the start. A caller that stops iterating stops the run between two rounds.
    """
    prune_checkpoints(context.ledger, context.schedule, context.checkpoints, rounds=context.rounds)
    policies = PolicyRegistry(context)
    first = len(context.ledger.records)
    resumed = {r for r in (first, first + 1) if context.ledger.has_stages(r)}  # their time is not measured
    for r in range(first, context.rounds + 1):
        began = None if r in resumed else time.perf_counter()
        if r > 0:
            plan = context.plan(r)
            collect(context, plan, policies)
            collect_late_labels(context, plan)
            with prefetch(context, policies, r + 1):
                measure_mismatch(context, plan, policies)
                select(context, plan)
                anchor(context, plan, policies)
                learn(context, plan, policies)
        evaluate(context, r, policies)
        update_reward(context, r)
        close_round(context, r, policies, began=began)
        yield context.ledger.records[r]
        if context.alarms.stops(context.ledger.records[r]):
            break
    save_last_policy(context, policies)
