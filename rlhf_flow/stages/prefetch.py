"""Under lag=1, samples and scores the next round while this one is trained on.

This is the only concurrency of the driver. The schedule names the policy that samples each response, so the result does
not depend on whether the two run at the same time.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial

from rlhf_flow.stages.collect import collect
from rlhf_flow.stages.context import RunContext
from rlhf_flow.stages.policies import PolicyRegistry
from rlhf_flow.system.cancellation import cancellable

GRACE = 30.0  # seconds that cancelled work may take to notice it


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
        with _in_thread(work):
            yield
    else:
        work()
        yield


@contextmanager
def _in_thread(work: Callable[[], None]) -> Iterator[None]:
    """Run `work` in a thread during the block. It is cancelled if the block fails or the wait is interrupted."""
    failures: list[BaseException] = []
    cancelled = threading.Event()

    def run() -> None:
        try:
            with cancellable(cancelled):
                work()
        except BaseException as failure:  # raised again in the driver's thread
            failures.append(failure)

    thread = threading.Thread(target=run, name="looking ahead", daemon=True)
    thread.start()
    try:
        yield
        thread.join()
    except BaseException:
        cancelled.set()
        thread.join(GRACE)
        raise
    if failures:
        raise failures[0]
