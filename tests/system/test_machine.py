"""What a manifest says of the machine."""

from __future__ import annotations

from pathlib import Path

import pytest

from rlhf_flow.system import machine


@pytest.mark.parametrize(
    ("script", "found"),
    [
        ("echo 'NVIDIA H100 80GB HBM3'; echo 'NVIDIA H100 80GB HBM3'", ["NVIDIA H100 80GB HBM3"] * 2),
        ("echo 'No devices were found' >&2; exit 6", []),
        ("exit 0", []),
    ],
)
def test_gpus_are_those_that_the_driver_lists(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, script: str, found: list[str]
) -> None:
    command = tmp_path / "nvidia-smi"
    command.write_text(f"#!/bin/sh\n{script}\n")
    command.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=":")
    assert machine.gpus() == found


def test_a_machine_without_a_driver_has_none(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    assert machine.gpus() == []
    described = machine.described()
    assert described["gpus"] == [] and isinstance(described["cores"], int) and described["cores"] >= 1
