"""The limits of a shell, set for real in a process of their own."""

from __future__ import annotations

import subprocess
import sys

import pytest


def limited(limit: str) -> str:
    """What `limits` says in a process that has few open files or processes."""
    code = (
        "import resource\n"
        "from rlhf_flow.doctor import machine\n"
        f"resource.setrlimit(resource.{limit}, (256, 256))\n"
        "print(*[f'{one.level} {one.message}; {one.remedy}' for one in machine.limits()], sep='\\n')\n"
    )
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=True).stdout


@pytest.mark.parametrize(("limit", "flag"), [("RLIMIT_NOFILE", "ulimit -n 4096"), ("RLIMIT_NPROC", "ulimit -u 2048")])
def test_a_low_limit_of_the_shell_is_told(limit: str, flag: str) -> None:
    (line,) = (line for line in limited(limit).splitlines() if line.startswith("warning"))
    assert "256" in line
    assert flag in line
    assert "hard limit" in line
