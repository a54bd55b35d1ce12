"""`rlhf-flow resume RUN`: go on with a run, as it was last started."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Sequence
from pathlib import Path

from rlhf_flow.cli import errors
from rlhf_flow.cli.interrupts import status_of
from rlhf_flow.cli.start import CONSOLES, program, started
from rlhf_flow.config.overrides import expanded
from rlhf_flow.config.resumed import resumed, start_folder
from rlhf_flow.runner.api import Run
from rlhf_flow.system.redact import check_typed


def main(arguments: Sequence[str]) -> int:
    """The exit status, as of `rlhf-flow run`. Raises an error of `errors.Mistake` for a mistake in the arguments."""
    folder, typed = Path(arguments[0]).resolve(), [CONSOLES.get(argument, argument) for argument in arguments[1:]]
    if wrong := errors.no_option([arguments[0], *typed]):
        raise ValueError(wrong)
    check_typed(typed)
    keys = expanded(typed)
    with contextlib.chdir(start_folder(folder) or Path.cwd()):  # relative paths, and modules of the user, are there
        sys.path.append(str(Path.cwd()))
        try:
            return started(lambda: Run(resumed(folder, keys)), program=program(), given=["resume", *arguments]).status
        except KeyboardInterrupt as interrupt:
            return status_of(interrupt)
