"""Runs that an earlier version began go on, to the same weights: archives of `scripts/proofs/old_run.py`."""

from __future__ import annotations

import json
import tarfile
from pathlib import Path

import pytest
import torch

from rlhf_flow.cli.main import main

ARCHIVES = Path(__file__).parents[1] / "support/old_runs"
RENAMED: dict[str, str] = {}  # overrides of the archives, as they are written today


@pytest.mark.parametrize("name", ["online_dpo", "nash_md"])
def test_a_run_of_version_0_1_goes_on_to_the_same_weights(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    with tarfile.open(ARCHIVES / "0.1.tar.xz") as archive:
        archive.extractall(tmp_path, filter="data")
    monkeypatch.chdir(tmp_path / "0.1")
    made = json.loads(Path("made.json").read_text())
    old = made["runs"][name]
    assert main(["run", *(RENAMED.get(one, one) for one in old["overrides"])]) == 0
    assert "goes on after round 2/4" in capsys.readouterr().out
    final = json.loads((Path(name) / "final.json").read_text())
    assert final["round"] == 4
    alike = (torch.backends.cpu.get_cpu_capability(), torch.__version__) == (made["processor"], made["torch"])
    if alike:  # other processors and versions add in another order
        assert final["sha256"] == old["sha256"]
    if name == "nash_md":  # its judgements were all known
        rounds = [json.loads(line) for line in (Path(name) / "metrics.jsonl").read_text().splitlines()]
        assert rounds[-1]["judge/cached"] > 0 == rounds[-1]["judge/queries"]
    assert main(["report", name]) == 0
