"""A merged adapter changes the base by exactly the weighted sum of what its parts change."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import LoraConfig, PeftModel, get_peft_model
from transformers import AutoModelForCausalLM

from rlhf_flow.cli.main import main
from tests.support import tiny

WEIGHTS = (0.75, -0.5)


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny.policy(tmp_path_factory.mktemp("base") / "model")


def adapter(base: Path, folder: Path, seed: int, **settings: Any) -> Path:
    model = get_peft_model(AutoModelForCausalLM.from_pretrained(base), LoraConfig(**settings))
    torch.manual_seed(seed)
    for name, parameter in model.named_parameters():
        if "lora_" in name:
            torch.nn.init.normal_(parameter, std=0.1)
    model.save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def adapters(base: Path, tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """Of different ranks, scales and layers."""
    folder = tmp_path_factory.mktemp("adapters")
    return [
        adapter(base, folder / "first", 1, r=4, lora_alpha=8, target_modules=["q_proj", "v_proj"]),
        adapter(base, folder / "r=2", 2, r=2, lora_alpha=3, target_modules=["q_proj", "up_proj"], use_rslora=True),
    ]


def merged_weights(base: Path, adapter: Path | None) -> dict[str, torch.Tensor]:
    """float64, of the base with an adapter merged by peft."""
    model = AutoModelForCausalLM.from_pretrained(base, dtype=torch.float64)
    whole = model if adapter is None else PeftModel.from_pretrained(model, str(adapter)).merge_and_unload()
    return dict(whole.state_dict())


def test_the_update_is_the_weighted_sum_of_the_updates(base: Path, adapters: list[Path], tmp_path: Path) -> None:
    terms = [f"{folder}={weight}" for folder, weight in zip(adapters, WEIGHTS, strict=True)]
    assert main(["merge", str(tmp_path / "merged"), *terms]) == 0
    assert json.loads((tmp_path / "merged/adapter_config.json").read_text())["r"] == 6
    start, merged = merged_weights(base, None), merged_weights(base, tmp_path / "merged")
    parts = [merged_weights(base, folder) for folder in adapters]
    assert main(["merge", str(tmp_path / "equal"), *map(str, adapters)]) == 0  # a name may hold `=`
    changed = 0
    for name, weight in start.items():
        expected = sum(factor * (part[name] - weight) for factor, part in zip(WEIGHTS, parts, strict=True))
        torch.testing.assert_close(merged[name] - weight, expected, rtol=1e-6, atol=1e-8)
        changed += bool((merged[name] != weight).any())
    assert changed == 2 * 3  # q, v and up of two layers


@pytest.mark.parametrize(
    ("second", "told"),
    [
        ("{base}", "is an adapter, and others are full weights. Fix: rlhf-flow convert "),
        ("{first}=half", "'half' is no weight. Fix: "),
        ("{dora}", "use_dora=True is no plain LoRA"),
        ("{other}", "Fix: merge adapters of one base"),
    ],
)
def test_what_cannot_be_merged_exactly_is_refused(
    second: str, told: str, base: Path, adapters: list[Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    names = {"base": base, "first": adapters[0], "dora": tmp_path / "dora", "other": tmp_path / "other"}
    for name, change in {"dora": {"use_dora": True}, "other": {"base_model_name_or_path": "another"}}.items():
        names[name].mkdir()
        settings = json.loads((adapters[1] / "adapter_config.json").read_text()) | change
        (names[name] / "adapter_config.json").write_text(json.dumps(settings))
        (names[name] / "adapter_model.safetensors").write_bytes(
            (adapters[1] / "adapter_model.safetensors").read_bytes()
        )
    assert main(["merge", str(tmp_path / "merged"), str(adapters[0]), second.format(**names)]) == 2
    assert told in capsys.readouterr().err
    assert not (tmp_path / "merged").exists()


def test_one_adapter_is_not_enough(adapters: list[Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["merge", str(tmp_path / "merged"), str(adapters[0])]) == 2
    assert "two or more models" in capsys.readouterr().err
