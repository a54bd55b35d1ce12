"""One round ahead: the answers of the next round are drawn while this one is learned. All concurrency of the driver.

Under `lag=1` a round is answered by whoever the schedule names for the round before it, so nothing has to wait for what
is learned meanwhile. Which policy draws which answer is the plan's alone: the same where nothing runs side by side.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial

from rlhf_flow.stages.collect import collect
from rlhf_flow.stages.context import RunContext
from rlhf_flow.stages.policies import PolicyRegistry
from rlhf_flow.system.cancellation import stoppable

PATIENCE = 30.0  # seconds that the other work may take to notice that nobody waits for it any more


@contextmanager
def looking_ahead(parts: RunContext, library: PolicyRegistry, round: int) -> Iterator[None]:
    """While the block learns, collect a coming round; both are done when it ends. Nothing under lag=0.

    Raises what the block raised, else what collecting did.
    """
    if parts.lag == 0 or round > parts.rounds:
        yield
        return
    plan = parts.plan(round)
    for role in plan.samplers:
        library.playing(plan, role)  # found before the learner is busy, who may have to learn a policy again
    work = partial(collect, parts, plan, library)
    if parts.disaggregated:
        with _beside(work):
            yield
    else:
        work()
        yield


@contextmanager
def _beside(work: Callable[[], None]) -> Iterator[None]:
    """Do the work in a thread while the block runs. Once the block fails, or the wait is interrupted, it is to stop."""
    failures: list[BaseException] = []
    stop = threading.Event()

    def run() -> None:
        try:
            with stoppable(stop):
                work()
        except BaseException as failure:  # whatever it was: raised again where somebody waits for it
            failures.append(failure)

    thread = threading.Thread(target=run, name="looking ahead", daemon=True)
    thread.start()
    try:
        yield
        thread.join()
    except BaseException:
        stop.set()
        thread.join(PATIENCE)
        raise
    if failures:
        raise failures[0]
