"""The limits of a shell, set for real in a process of their own."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest


def limited(limit: str, check: str = "limits()") -> str:
    """What a check says in a process that has few open files, processes or bytes of locked memory."""
    code = (
        "import resource\n"
        "from pathlib import Path\n"
        "from rlhf_flow.doctor import machine\n"
        f"resource.setrlimit(resource.{limit}, (256, 256))\n"
        f"print(*[f'{{one.level}} {{one.message}}; {{one.remedy}}' for one in machine.{check}], sep='\\n')\n"
    )
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=True).stdout


@pytest.mark.parametrize(("limit", "flag"), [("RLIMIT_NOFILE", "ulimit -n 4096"), ("RLIMIT_NPROC", "ulimit -u 2048")])
def test_a_low_limit_of_the_shell_is_told(limit: str, flag: str) -> None:
    (line,) = (line for line in limited(limit).splitlines() if line.startswith("warning"))
    assert "256" in line
    assert flag in line
    assert "hard limit" in line


def test_memory_that_cannot_be_pinned_is_told_where_there_are_rdma_devices(tmp_path: Path) -> None:
    check = f"rdma(Path({str(tmp_path)!r}))"
    assert limited("RLIMIT_MEMLOCK", check).strip() == ""
    (tmp_path / "uverbs0").touch()
    (line,) = (line for line in limited("RLIMIT_MEMLOCK", check).splitlines() if "locked memory" in line)
    assert line.startswith("warning")
    assert all(word in line for word in ("TCP", "ulimit -l unlimited", "LimitMEMLOCK=infinity"))
