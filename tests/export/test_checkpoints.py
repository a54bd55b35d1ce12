"""A merged checkpoint is the weighted sum of its parts, rounded once; what is no sum of weights is refused."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from rlhf_flow.cli.main import main
from rlhf_flow.weights.source import Checkpoint
from tests.support import tiny

FACTORS = (0.7, 0.6, -0.3)


def another(start: Path, folder: Path, *, seed: int, dtype: torch.dtype) -> Path:
    """The checkpoint with random weights of a dtype and a buffer of whole numbers, in two files."""
    torch.manual_seed(seed)
    folder.mkdir()
    tensors = {name: torch.randn(one.shape).to(dtype) for name, one in load_file(start / "model.safetensors").items()}
    names = sorted(tensors)
    files = {"model-00001-of-00002.safetensors": names[::2], "model-00002-of-00002.safetensors": names[1::2]}
    tensors["steps"] = torch.tensor([seed])
    files["model-00001-of-00002.safetensors"].append("steps")
    for file, held in files.items():
        save_file({name: tensors[name] for name in held}, folder / file, metadata={"format": "pt"})
    for name in ("config.json", "tokenizer.json", "tokenizer_config.json"):
        (folder / name).write_bytes((start / name).read_bytes())
    weight_map = {name: file for file, held in files.items() for name in held}
    (folder / "model.safetensors.index.json").write_text(json.dumps({"metadata": {}, "weight_map": weight_map}))
    return folder


def tensors(folder: Path) -> dict[str, torch.Tensor]:
    return {name: one for file in folder.glob("*.safetensors") for name, one in load_file(file).items()}


@pytest.fixture(scope="module")
def start(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny.policy(tmp_path_factory.mktemp("start") / "model")


@pytest.fixture(scope="module")
def models(start: Path, tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """The first in bfloat16, the others in float32."""
    folder = tmp_path_factory.mktemp("models")
    dtypes = (torch.bfloat16, torch.float32, torch.float32)
    return [another(start, folder / f"m{seed}", seed=seed, dtype=dtype) for seed, dtype in enumerate(dtypes)]


def test_weights_are_summed_in_float32_and_rounded_once(models: list[Path], tmp_path: Path) -> None:
    terms = [f"{folder}={factor}" for folder, factor in zip(models, FACTORS, strict=True)]
    assert main(["merge", str(tmp_path / "merged"), *terms]) == 0
    merged, parts = tensors(tmp_path / "merged"), [tensors(folder) for folder in models]
    assert merged.keys() == parts[0].keys()
    for name, weight in merged.items():
        if name == "steps":
            continue
        exact = sum(factor * part[name].double() for factor, part in zip(FACTORS, parts, strict=True))
        assert weight.dtype == torch.bfloat16
        assert isinstance(exact, torch.Tensor)
        torch.testing.assert_close(weight.double(), exact, rtol=1.001 * 2**-8, atol=1e-6)  # rounded once
        in_bfloat16 = sum(factor * part[name].bfloat16() for factor, part in zip(FACTORS, parts, strict=True))
        assert (weight.double() - exact).abs().sum() < (in_bfloat16 - exact).abs().sum()
    assert merged["steps"].item() == 0, "of the first checkpoint"


def test_the_result_is_a_checkpoint(start: Path, models: list[Path], tmp_path: Path) -> None:
    assert main(["merge", str(tmp_path / "same"), f"{start}=3", f"{start}=-2"]) == 0
    loaded, original = Checkpoint(tmp_path / "same").load(), Checkpoint(start).load()
    for name, weight in original.items():
        torch.testing.assert_close(loaded[name], weight, rtol=1e-6, atol=1e-6)
    assert {path.name for path in start.iterdir()} == {path.name for path in (tmp_path / "same").iterdir()}


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ("shape", "embed_tokens.weight has shape [3, 32], and ["),
        ("name", "lacks lm_head.weight. Fix: merge checkpoints of one architecture."),
        ("bin", "holds no *.safetensors. Fix: rlhf-flow convert "),
        ("quantised", "its weights are quantised, and cannot be summed. Fix: rlhf-flow convert "),
        ("config", "holds no checkpoint: it has no config.json"),
        ("adapter", "is an adapter, and others are full weights. Fix: rlhf-flow convert "),
    ],
)
def test_what_has_no_sum_is_refused(
    change: str, told: str, start: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    other = tmp_path / "other"
    other.mkdir()
    weights, config = load_file(start / "model.safetensors"), json.loads((start / "config.json").read_text())
    if change == "shape":
        weights["model.embed_tokens.weight"] = torch.zeros(3, 32)
    if change == "name":
        del weights["lm_head.weight"]
    if change == "quantised":
        config["quantization_config"] = {"quant_method": "fp8"}
    if change == "adapter":
        (other / "adapter_config.json").write_text("{}")
    if change != "config":
        (other / "config.json").write_text(json.dumps(config))
    save_file(weights, other / ("model.bin" if change == "bin" else "model.safetensors"))
    assert main(["merge", str(tmp_path / "merged"), str(start), str(other)]) == 2
    assert told in capsys.readouterr().err
    assert not (tmp_path / "merged").exists()
