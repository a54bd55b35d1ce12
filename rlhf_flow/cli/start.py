"""Starts a run for a command, and says how it ended. Exit status: 0 done, 1 failed, 2 a mistake, 130 interrupted."""

from __future__ import annotations

import shlex
import sys
import traceback
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from rlhf_flow.system.redact import redacted

if TYPE_CHECKING:
    from rlhf_flow.cluster.ray_persistent import OpenClusters
    from rlhf_flow.config.schema import RunConfig

DONE, FAILED, MISTAKEN, INTERRUPTED = 0, 1, 2, 130


def started(
    configured: Callable[[], RunConfig], *, program: str, given: Sequence[str], clusters: OpenClusters | None = None
) -> int:
    """Run a configuration to its end. `program` and `given` are the command, as the user typed it."""
    from rlhf_flow.cli import errors
    from rlhf_flow.metrics.alarms import AlarmError
    from rlhf_flow.metrics.off_policy import GateError
    from rlhf_flow.runner import prepare
    from rlhf_flow.runner.api import Run

    again = f"{program} {redacted(shlex.join(given))}"
    try:
        try:
            run = Run(configured())
            prepared = run.prepare()
        except errors.Mistake as error:
            return mistaken(errors.mistake(error), errors.retry(error, program, given))
        again = f"{program} resume {shlex.quote(run.config.run_dir)}"
        prepared.run(clusters)
    except KeyboardInterrupt:
        print(f"\nrlhf-flow: stopped. Committed work is kept. To resume: {again}", file=sys.stderr)
        raise
    except prepare.RefusedError as refusal:
        return mistaken(" ".join(str(refusal).split()))
    except (AlarmError, GateError) as stop:  # its message has the remedy
        print(f"rlhf-flow: {stop}", file=sys.stderr)
        return FAILED
    except Exception as error:
        resume = f"Committed work is kept. Once the cause is removed, resume: {again}"
        return failed("the run", error, resume)
    return DONE


def failed(what: str, error: Exception, *more: str) -> int:
    """Print the traceback and the cause of a failure."""
    print(redacted(traceback.format_exc()), end="", file=sys.stderr)
    cause = redacted(str(error)) or type(error).__name__
    print("\n".join([f"rlhf-flow: {what} failed: {cause}", *more]), file=sys.stderr)
    return FAILED


def program() -> str:
    """The program as the user started it."""
    return "rlhf-flow" if Path(sys.argv[0]).name == "rlhf-flow" else f"{shlex.quote(sys.executable)} -m rlhf_flow"


def mistaken(message: str, more: str = "") -> int:
    """Print a mistake in what was asked, and a line more if there is one."""
    print("\n".join([f"rlhf-flow: {redacted(message)}", *filter(None, [more])]), file=sys.stderr)
    return MISTAKEN
