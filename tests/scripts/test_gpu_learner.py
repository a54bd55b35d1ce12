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
from transformers import AutoModelForCausalLM

from rlhf_flow.learner import policy_model
from rlhf_flow.learner.policy_model import ResponseLogps
from tests.support.allocations import peak

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parents[2]
SCRIPTS = ROOT / "scripts/bench"

models, planning, steps = (importlib.import_module(f"gpu.{name}") for name in ("models", "planned", "steps"))

SMALL = models.Asked(batch=4, micro_batch=2, prompt=8, answer=8, repeats=1, offload="all")


def measured(*arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-W", "ignore", str(SCRIPTS / "gpu_learner.py"), *arguments]
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    return subprocess.run(command, capture_output=True, text=True, timeout=500, env=environment)


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


@pytest.mark.parametrize(
    ("until", "learner"),
    [
        ("padded", "torch"),
        *(pytest.param(step, "torch", marks=pytest.mark.soak) for step in ("packed", "shared", "fused", "compiled")),
        pytest.param("fused", "fsdp", marks=pytest.mark.soak),
    ],
)
def test_each_step_of_the_learner_is_measured_on_the_same_work(
    until: str, learner: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    lengths = ("--batch", "4", "--prompt", "8", "--answer", "16", "--repeats", "1", "--threads", "1")
    asked = ("--device", "cpu", "--peak-tflops", "0.001", "--learner", learner, "--until", until, *lengths)
    monkeypatch.setattr(sys, "argv", ["gpu_learner.py", *asked])
    assert gpu_learner.main() == 0
    page = capsys.readouterr().out
    assert f"{learner}, offload: none, recomputed: full; until {until}" in page
    for what in ("tokens/s", "model FLOP utilisation, %"):
        assert re.search(rf"^\| `update`, {re.escape(what)} \| [\d.,]+ \|", page, re.MULTILINE)


def test_what_is_left_out_costs_memory_and_changes_no_log_prob() -> None:
    lm = AutoModelForCausalLM.from_config(models.SIZES["tiny"].config(positions=64)).float()
    tokens, at = torch.randint(3, 512, (16, 64)), torch.arange(16 * 64)

    def read(step: str) -> tuple[torch.Tensor, int, bool]:
        with steps.learner_until(step):
            model = ResponseLogps(lm, chunk=64)
            logps = model(tokens, at, tokens.flatten()).detach()
            used = peak(lambda: model(tokens, at, tokens.flatten()).sum().backward())
            return logps, used, policy_model.share_prompts(model)

    plain, most, shares_not = read("padded")
    fused, least, shares = read("fused")
    assert torch.allclose(plain, fused, atol=1e-5)
    assert most > least + 16 * 64 * 512 * 4  # at least once the logits of all tokens, in bytes
    assert shares and not shares_not


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
