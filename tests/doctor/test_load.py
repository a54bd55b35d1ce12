"""`rlhf-flow doctor --load`: what a run would load, loaded."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from rlhf_flow.cli.doctor import main
from tests.support import tiny

pytestmark = pytest.mark.slow


@pytest.mark.parametrize(
    "engine", ["huggingface", pytest.param("vllm", marks=[pytest.mark.vllm, pytest.mark.ray, pytest.mark.soak])]
)
def test_what_the_run_would_load_is_loaded_published_and_compared(
    engine: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    model = tiny.policy(tmp_path / "model", heads=1)  # a head of 32: vLLM has no kernel for 16 on every processor
    run = tiny.overrides(model, tiny.prompts(tmp_path / "prompts.jsonl"), tmp_path / "run", engine=engine)
    cluster = [] if engine == "huggingface" else ["cluster=ray"]
    capsys.readouterr()  # what saving the model printed
    main([*run, *cluster, "--load", "--json"])
    page = json.loads(capsys.readouterr().out)
    told = [one for one in page["findings"] if one["subject"] in ("load", "chat")]
    assert {one["level"] for one in told} == {"ok"}, told
    says = "\n".join(one["message"] for one in told)
    assert "2 '</s>' (tokenizer, generation_config.json, config.json, chat template)" in says
    assert "'<s><|user|>What is two and two?</s><|assistant|>'" in says
    assert f"engine={engine} loads model.path" in says
    assert f"engine={engine} reads what the learner publishes" in says
