"""A process ends with the one that started it."""

from __future__ import annotations

import signal
import subprocess
import sys

import pytest

from rlhf_flow.system.parent import shared_stdin

pytestmark = pytest.mark.slow
CHILD = """
import time
from rlhf_flow.system.parent import end_with_parent
end_with_parent()
print("started", flush=True)
time.sleep(60)
print("late", flush=True)
"""
PARENT = f"""
import subprocess, sys
from rlhf_flow.system.parent import shared_stdin
with shared_stdin() as stdin:
    subprocess.run([sys.executable, "-c", {CHILD!r}], stdin=stdin, start_new_session=True)
"""


def test_a_child_ends_with_a_parent_that_is_killed() -> None:
    with subprocess.Popen([sys.executable, "-c", PARENT], stdout=subprocess.PIPE, text=True) as parent:
        assert parent.stdout is not None
        assert parent.stdout.readline() == "started\n"
        parent.kill()
        assert parent.stdout.read() == "", "the end of the child's output, before it is late"


def test_a_child_ends_with_the_block() -> None:
    command = [sys.executable, "-c", CHILD]
    with shared_stdin() as stdin:
        child = subprocess.Popen(command, stdin=stdin, stdout=subprocess.PIPE, start_new_session=True)
        assert child.stdout is not None
        child.stdout.readline()
    with child:
        assert child.wait(30) == -signal.SIGTERM
