"""Algorithm 1: online iterative preference optimisation, whatever the algorithm, the judge and the cluster.

Every line is a stage of a round. A stage that was committed is read back, not done again, so the same loop starts a run
and resumes it.
"""

from __future__ import annotations

import time

from rlhf_flow.stages.close_round import close, finish, settle
from rlhf_flow.stages.collect import collect, select
from rlhf_flow.stages.context import RunContext
from rlhf_flow.stages.evaluate import evaluate
from rlhf_flow.stages.late_labels import late
from rlhf_flow.stages.learn import anchor, learn
from rlhf_flow.stages.off_policy import mismatch
from rlhf_flow.stages.policies import PolicyRegistry
from rlhf_flow.stages.prefetch import looking_ahead
from rlhf_flow.stages.update_reward import refresh


def run(parts: RunContext) -> None:
    """Rounds 1..`parts.rounds`, from the first one without a record; fewer where an alarm stops the run.

    Round 0 evaluates the start.
    """
    settle(parts.ledger, parts.schedule, parts.keeping, rounds=parts.rounds)
    library = PolicyRegistry(parts)
    first = len(parts.ledger.records)
    begun = {r for r in (first, first + 1) if not parts.ledger.untouched(r)}  # by an earlier start of the run
    for r in range(first, parts.rounds + 1):
        began = None if r in begun else time.perf_counter()
        if r > 0:
            plan = parts.plan(r)
            collect(parts, plan, library)
            late(parts, plan)
            with looking_ahead(parts, library, r + 1):
                mismatch(parts, plan, library)
                select(parts, plan)
                anchor(parts, plan, library)
                learn(parts, plan, library)
        evaluate(parts, r, library)
        refresh(parts, r)
        close(parts, r, library, began=began)
        if parts.alarms.stops(parts.ledger.records[r]):
            break
    finish(parts, library)
