"""Runs that an earlier version began go on, to the same weights but for rounding: `scripts/proofs/old_run.py`."""

from __future__ import annotations

import json
import tarfile
from pathlib import Path

import pytest
import torch

from rlhf_flow.cli.main import main
from rlhf_flow.weights.source import Checkpoint

pytestmark = pytest.mark.slow

ARCHIVES = Path(__file__).parents[1] / "support/old_runs"
RENAMED = {  # overrides of the archives -> as they are written today
    "checkpoint.piece=8": "checkpoint.prompts_per_commit=8",
    "memory.size=1": "replay.size=1",
    "gate.max_staleness=3": "off_policy.max_staleness=3",
    "gate.measured=16": "off_policy.measured=16",
    "paging.pairs=20": "resampling.min_pairs=20",
    "paging.pages=2": "resampling.max_batches=2",
    "scorer@scorer.of=sandbox": "scorer@scorer.base=sandbox",
    "scorer.of.path=judge": "scorer.base.path=judge",
}


@pytest.mark.parametrize("name", ["online_dpo", "nash_md"])
def test_a_run_of_version_0_1_goes_on_to_the_same_weights(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    with tarfile.open(ARCHIVES / "0.1.tar.xz") as archive:
        archive.extractall(tmp_path, filter="data")
    monkeypatch.chdir(tmp_path / "0.1")
    old = json.loads(Path("made.json").read_text())["runs"][name]
    assert main(["run", *(RENAMED.get(one, one) for one in old["overrides"])]) == 0
    assert "resumes after round 2/4" in capsys.readouterr().out
    final = json.loads((Path(name) / "final.json").read_text())
    assert final["round"] == 4
    norm, projections = learned(
        Checkpoint(tmp_path / "0.1/policy"), Checkpoint(tmp_path / "0.1" / name / final["policy"])
    )
    expected = json.loads((ARCHIVES / "0.1.json").read_text())[name]
    assert norm == pytest.approx(expected["norm"], rel=1e-3)
    assert projections == pytest.approx(expected["projections"], abs=1e-2 * norm)
    if name == "nash_md":  # its judgements were all known
        rounds = [json.loads(line) for line in (Path(name) / "metrics.jsonl").read_text().splitlines()]
        assert rounds[-1]["judge/cached"] > 0 == rounds[-1]["judge/queries"]
    assert main(["report", name]) == 0


def learned(start: Checkpoint, end: Checkpoint) -> tuple[float, list[float]]:
    """The norm of the change of the weights, and its products with eight random vectors.

    Version 0.2 packs the rows of a forward pass, so its sums are rounded in another order.
    """
    before = dict(start.stream())
    change = torch.cat([(tensor.double() - before[name].double()).flatten() for name, tensor in sorted(end.stream())])
    vectors = torch.randn(8, change.numel(), generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    return change.norm().item(), (vectors @ change).tolist()


@pytest.mark.parametrize(
    ("old", "told"),
    [
        ("memory=decay", "`memory` is called `replay` since 0.2. Fix: replay=decay."),
        ("gate.measured=1", "Fix: off_policy.measured=1."),
        ("scorer@evaluate.scorer.of=gold", "Fix: scorer@evaluate.scorer.base=gold."),
        ("sampler.draws.0.who=dataset", "Fix: sampler.draws.0.policy=dataset."),
        ("sampler=plan", "`plan` is called `draws` since 0.2. Fix: sampler=draws."),
        ("cluster.patience.deaths=1", "Fix: cluster.fault_tolerance.deaths=1."),
    ],
)
def test_an_old_name_on_the_command_line_is_answered_with_the_new_one(
    old: str, told: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["run", "experiment=sandbox", "stack=local", old]) == 2
    assert told in capsys.readouterr().err
