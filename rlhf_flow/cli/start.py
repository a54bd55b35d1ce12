"""Starts a run for a command, and says how it ended. Exit status: 0 done, 1 failed, 2 a mistake."""

from __future__ import annotations

import shlex
import sys
import traceback
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from rlhf_flow.cli.interrupts import terminable
from rlhf_flow.system.output import log_note
from rlhf_flow.system.redact import redacted

if TYPE_CHECKING:
    from rlhf_flow.cluster.ray_persistent import OpenClusters
    from rlhf_flow.runner.api import Run
    from rlhf_flow.types import RoundRecord

DONE, FAILED, MISTAKEN = 0, 1, 2
CONSOLES = {  # options of runs
    "-q": "observe.console=quiet",
    "--quiet": "observe.console=quiet",
    "--json": "observe.console=json",
}


class Ended(NamedTuple):
    """How a job ended."""

    status: int  # exit status
    score: float | None = None  # what a sweeper optimises


def started(
    made: Callable[[], Run], *, program: str, given: Sequence[str], clusters: OpenClusters | None = None
) -> Ended:
    """Make a run and run it to its end. `program` and `given` are the command, as the user typed it.

    Raises KeyboardInterrupt at SIGINT and SIGTERM, after the line that says how to resume.
    """
    with terminable():
        return _started(made, program, given, clusters)


def _started(made: Callable[[], Run], program: str, given: Sequence[str], clusters: OpenClusters | None) -> Ended:
    from rlhf_flow.cli import errors
    from rlhf_flow.metrics.alarms import AlarmError
    from rlhf_flow.metrics.off_policy import GateError
    from rlhf_flow.runner import prepare

    again = f"{program} {redacted(shlex.join(given))}"
    try:
        try:
            run = made()
            prepared = run.prepare()
        except errors.Mistake as error:
            return Ended(mistaken(errors.mistake(error), errors.retry(error, program, given)))
        again = f"{program} resume {shlex.quote(run.config.run_dir)}"
        records = prepared.run(clusters)
    except KeyboardInterrupt:
        print(f"\nrlhf-flow: stopped. Committed work is kept. To resume: {again}", file=sys.stderr)
        raise
    except prepare.RefusedError as refusal:
        return Ended(mistaken(" ".join(str(refusal).split())))
    except (AlarmError, GateError) as stop:  # its message has the remedy
        print(f"rlhf-flow: {stop}", file=sys.stderr)
        return Ended(FAILED)
    except Exception as error:
        resume = f"Committed work is kept. Once the cause is removed, resume: {again}"
        return Ended(failed("the run", error, resume))
    return Ended(DONE, score(records))


def score(records: Sequence[RoundRecord]) -> float | None:
    """The last held-out win rate; of a reward model, accuracy; of supervised fine-tuning, loss."""
    from rlhf_flow.report.sweep import SCORES

    for key in SCORES:
        if measured := [record.metrics[key] for record in records if key in record.metrics]:
            return measured[-1]
    return None


def failed(what: str, error: Exception, *more: str) -> int:
    """Print the cause of a failure, after its traceback or, if a log has that, after the log's last lines.

    Returns the exit status.
    """
    note = log_note(error)
    print(redacted(traceback.format_exc() if note is None else f"{note}\n"), end="", file=sys.stderr)
    cause = redacted(str(error)) or type(error).__name__
    where = "" if note is None else _in_user_code(error)
    print("\n".join([f"rlhf-flow: {what} failed: {cause}{where}", *more]), file=sys.stderr)
    return FAILED


def _in_user_code(error: Exception) -> str:
    """` (KeyError at my_lab.py:12 in reward)`, if the error is from outside of this package and its libraries."""
    frames = traceback.extract_tb(error.__traceback__)
    own = (str(Path(__file__).parents[1]), sys.prefix, sys.base_prefix)
    if not frames or frames[-1].filename.startswith(own):
        return ""
    last = frames[-1]
    return f" ({type(error).__name__} at {last.filename}:{last.lineno} in {last.name})"


def program() -> str:
    """The program as the user started it."""
    return "rlhf-flow" if Path(sys.argv[0]).name == "rlhf-flow" else f"{shlex.quote(sys.executable)} -m rlhf_flow"


def mistaken(message: str, more: str = "") -> int:
    """Print a mistake in what was asked, and a line more if there is one."""
    print("\n".join([f"rlhf-flow: {redacted(message)}", *filter(None, [more])]), file=sys.stderr)
    return MISTAKEN
