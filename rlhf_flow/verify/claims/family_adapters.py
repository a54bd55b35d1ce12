"""Claims about LoRA adapters that are merged."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from rlhf_flow.export.adapters import A, B, merge_adapters
from rlhf_flow.verify.claim import Claim, Finding, above, below
from rlhf_flow.weights.source import SETTINGS, TENSORS

LAYER, WIDTH = "base_model.model.layer.", 24  # of the one layer, [WIDTH, WIDTH]
ADAPTERS = ((4, 8, False), (4, 3, True))  # rank, alpha, whether the scale is that of rsLoRA
WEIGHTS = (0.75, 0.5)


def merged(seed: int) -> Iterator[Finding]:
    """As COFS-DPO merges the adapters of two domains, whose features are apart: each acts on half of the inputs."""
    torch.manual_seed(seed)
    with TemporaryDirectory() as name:
        folders = [Path(name) / str(number) for number in range(len(ADAPTERS))]
        updates, factors = [], []
        for number, (folder, (rank, alpha, stabilised)) in enumerate(zip(folders, ADAPTERS, strict=True)):
            half = slice(number * WIDTH // 2, (number + 1) * WIDTH // 2)
            down, up = torch.zeros(rank, WIDTH), torch.randn(WIDTH, rank)
            down[:, half] = torch.randn(rank, WIDTH // 2)
            _write(folder, down, up, rank, alpha, stabilised)
            scale = alpha / (math.sqrt(rank) if stabilised else rank)
            updates.append(scale * up.double() @ down.double())
            factors.append((up, down))
        merge_adapters(list(zip(folders, WEIGHTS, strict=True)), Path(name) / "merged")
        update = _read(Path(name) / "merged")
    expected = _weighted(updates)
    size = expected.abs().max()
    yield below(
        "difference of the merged update to sum of w s B A, relative", (update - expected).abs().max() / size, 1e-6
    )
    up, down = (_weighted(each) for each in zip(*factors, strict=True))
    apart = (up.double() @ down.double() - expected).abs().max() / size
    yield above("of the product of factors that are summed apart", apart, 0.1)
    for number, (weight, own) in enumerate(zip(WEIGHTS, updates, strict=True)):
        inputs = torch.zeros(WIDTH, 64, dtype=torch.float64)
        half = slice(number * WIDTH // 2, (number + 1) * WIDTH // 2)
        inputs[half] = torch.randn(WIDTH // 2, 64, dtype=torch.float64)
        moved = own @ inputs
        lost = (update @ inputs - weight * moved).abs().max() / moved.abs().max()
        yield below(f"domain {number + 1}: change of logits against w times its own adapter's, relative", lost, 1e-6)


def _weighted(terms: Sequence[Tensor]) -> Tensor:
    return torch.stack([weight * each for weight, each in zip(WEIGHTS, terms, strict=True)]).sum(0)


def _write(folder: Path, down: Tensor, up: Tensor, rank: int, alpha: int, stabilised: bool) -> None:
    folder.mkdir()
    save_file({LAYER + A: down, LAYER + B: up}, folder / TENSORS)
    settings = {"r": rank, "lora_alpha": alpha, "use_rslora": stabilised, "target_modules": ["layer"]}
    (folder / SETTINGS).write_text(json.dumps({**settings, "base_model_name_or_path": "base"}), encoding="utf-8")


def _read(folder: Path) -> Tensor:
    """The update of an adapter, float64 [WIDTH, WIDTH]."""
    settings, tensors = json.loads((folder / SETTINGS).read_text(encoding="utf-8")), load_file(folder / TENSORS)
    scale = settings["lora_alpha"] / settings["r"]
    return scale * tensors[LAYER + B].double() @ tensors[LAYER + A].double()


CLAIMS = (
    Claim(
        "F34", "COFS-DPO", "a merged adapter is the weighted sum of updates", "Qi et al. 2024, arXiv:2406.05534", merged
    ),
)
