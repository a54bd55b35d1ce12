"""The measurement of the learner, without the GPU that it is for: its arithmetic, its refusals, and its whole path."""

from __future__ import annotations

import importlib
import os
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import gpu_learner
import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode
from transformers import AutoModelForCausalLM

from rlhf_flow.capacity.model_shape import shape_of
from rlhf_flow.learner.policy_model import ResponseLogps

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parents[2]
SCRIPTS = ROOT / "scripts/bench"

models, page, planning = (importlib.import_module(f"gpu.{name}") for name in ("models", "page", "planned"))

SMALL = models.Asked(batch=4, micro_batch=2, prompt=8, answer=8, repeats=1, offload="all")


def measured(*arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-W", "ignore", str(SCRIPTS / "gpu_learner.py"), *arguments]
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    return subprocess.run(command, capture_output=True, text=True, timeout=500, env=environment)


def test_the_arithmetic_of_a_forward_pass_is_what_torch_counts(tmp_path: Path) -> None:
    models.SIZES["tiny"].config(positions=64).save_pretrained(tmp_path)
    shape = shape_of(str(tmp_path))
    lm = AutoModelForCausalLM.from_config(models.SIZES["tiny"].config(positions=64), attn_implementation="eager")
    logps, lengths, counted = ResponseLogps(lm.float().eval(), chunk=64), [(20, 30), (4, 9)], 0
    for prompt, answer in lengths:
        with torch.no_grad(), FlopCounterMode(display=False) as counter:
            tokens = torch.randint(0, 512, (1, prompt + answer))
            logps(tokens, torch.arange(prompt - 1, prompt + answer - 1), tokens[0, prompt:])
        counted += counter.get_total_flops()
    assert page.flops(shape, lengths) == pytest.approx(counted, rel=1e-3)


@pytest.mark.parametrize(("name", "billions"), [("8b", 8.03), ("3b", 3.21), ("1b", 1.24)])
def test_sizes_are_what_they_are_called_after(name: str, billions: float, tmp_path: Path) -> None:
    plan = planning.planned(name, models.SIZES[name], tmp_path / "model", SMALL, on_gpu=True)
    assert plan.shape.parameters / 1e9 == pytest.approx(billions, abs=0.005)


def test_what_is_offloaded_moves_from_the_gpu_to_the_host(tmp_path: Path) -> None:
    plans = {
        offload: planning.planned(
            "8b",
            models.SIZES["8b"],
            tmp_path / offload / "model",
            models.Asked(batch=4, micro_batch=2, prompt=8, answer=8, repeats=1, offload=offload),
            on_gpu=True,
        )
        for offload in ("none", "optimizer", "all")
    }
    gpu = [plans[offload].gpu.bytes for offload in plans]
    host = [plans[offload].host.bytes for offload in plans]
    assert gpu == sorted(gpu, reverse=True)
    assert host == sorted(host)


@pytest.fixture
def refused(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Callable[..., str]:
    """Ask for a measurement that cannot be; return the words that say so."""

    def ask(*arguments: str) -> str:
        monkeypatch.setattr(sys, "argv", ["gpu_learner.py", *arguments])
        assert gpu_learner.main() == 2
        said = capsys.readouterr()
        assert said.out == ""
        return said.err.strip()

    return ask


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_without_a_gpu_it_says_so(refused: Callable[..., str]) -> None:
    assert refused() == "There is no GPU that torch can use here. Try --device cpu --size tiny."


def test_a_size_that_the_host_cannot_take_is_refused_with_one_that_it_can(refused: Callable[..., str]) -> None:
    said = refused("--device", "cpu", "--hidden", "131072", "--heads", "64", "--layers", "100")
    assert re.search(r"yours takes [\d,.]+ GiB of the host, by plan, and there are [\d.]+ GiB left", said)
    assert re.search(r"What fits here, by plan: --size (8b|3b|1b|tiny)\.", said)


def test_heads_that_do_not_divide_are_refused(refused: Callable[..., str]) -> None:
    assert refused("--device", "cpu", "--heads", "7").endswith("--heads must divide --hidden=64, got 7.")


@pytest.mark.soak
@pytest.mark.deepspeed
def test_the_whole_path_ends_in_tables() -> None:
    lengths = ("--batch", "4", "--micro-batch", "2", "--prompt", "8", "--answer", "16", "--repeats", "2")
    done = measured("--device", "cpu", "--size", "tiny", "--threads", "1", "--peak-tflops", "0.001", *lengths)
    assert done.returncode == 0, done.stderr[-3000:]
    for what in ("`update`", "`logps` of the anchor"):
        assert re.search(rf"^\| {what}, tokens/s \| [\d,]+ \| [\d,]+ to [\d,]+, 2 times \|$", done.stdout, re.MULTILINE)
        assert re.search(rf"^\| {what}, model FLOP utilisation, % \| [\d.]+ \|", done.stdout, re.MULTILINE)
    assert re.search(r"^\| host, resident set \| [\d.]+ \| [\d.]+ \| [\d.]+ \|$", done.stdout, re.MULTILINE)
    for phase in ("open", "start", "anchors", "learn", "publish"):
        assert re.search(rf"^\| {phase} \|", done.stdout, re.MULTILINE), f"{phase} was not measured"
    assert "deepspeed" in done.stdout
