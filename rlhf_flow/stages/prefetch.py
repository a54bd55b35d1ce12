"""Under lag=1, samples and scores the next round while this one is trained on.

The schedule names the policy that samples each response, so the result does not depend on whether the two run at the
same time.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial

from rlhf_flow.stages.collect import collect
from rlhf_flow.stages.context import RunContext
from rlhf_flow.stages.policies import PolicyRegistry
from rlhf_flow.system.background import in_thread


@contextmanager
def prefetch(context: RunContext, policies: PolicyRegistry, round: int) -> Iterator[None]:
    """Collect `round` while the block runs, and wait for both. Does nothing under lag=0.

    Raises the error of the block, otherwise that of collecting.
    """
    if context.lag == 0 or round > context.rounds:
        yield
        return
    plan = context.plan(round)
    for role in plan.samplers:
        policies.playing(plan, role)  # loaded now: the learner is busy later, and may have to train a policy again
    work = partial(collect, context, plan, policies)
    if context.disaggregated:
        with in_thread(work, name="looking ahead"):
            yield
    else:
        work()
        yield
