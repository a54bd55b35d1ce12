"""Merges LoRA adapters of one base exactly: the update of the result is the weighted sum of their updates.

Ranks are concatenated: with scale s_i = alpha_i / r_i (or alpha_i / sqrt(r_i), rsLoRA), sum_i w_i s_i B_i A_i is the
product of [w_1 s_1 B_1, w_2 s_2 B_2, ...] and [A_1; A_2; ...]. COFS-DPO combines the slow and fast adapters of several
domains in this way (Qi et al. 2024, arXiv:2406.05534).
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from rlhf_flow.system.files import new_folder
from rlhf_flow.weights.source import SETTINGS, TENSORS

if TYPE_CHECKING:
    from torch import Tensor

A, B = "lora_A.weight", "lora_B.weight"
PLAIN = {  # settings with which the update is s B A and nothing else
    "bias": "none",
    "use_dora": False,
    "modules_to_save": None,
    "rank_pattern": {},
    "alpha_pattern": {},
    "fan_in_fan_out": False,
}


class _Loaded(NamedTuple):
    folder: Path
    settings: dict[str, Any]
    tensors: dict[str, Tensor]

    @property
    def scale(self) -> float:
        rank = self.settings["r"]
        return float(self.settings["lora_alpha"] / (math.sqrt(rank) if self.settings.get("use_rslora") else rank))


def merge_adapters(terms: Sequence[tuple[Path, float]], out: Path) -> str:
    """Write the adapter whose update is the sum of the adapters' updates times their weights; return a summary.

    Its rank is the sum of their ranks, its tensors are float32. A layer that an adapter lacks counts as no update.
    Raises ValueError if a folder holds no plain LoRA adapter, if the bases differ, or if `out` has files.
    """
    loaded = [_load(folder) for folder, _ in terms]
    first = loaded[0].settings
    for one in loaded[1:]:
        if one.settings["base_model_name_or_path"] != first["base_model_name_or_path"]:
            bases = (first["base_model_name_or_path"], one.settings["base_model_name_or_path"])
            raise ValueError(f"{one.folder}: its base is {bases[1]}, not {bases[0]}. Fix: merge adapters of one base.")
    import torch
    from safetensors.torch import save_file

    rank = sum(one.settings["r"] for one in loaded)
    layers = sorted({name.removesuffix(A) for one in loaded for name in one.tensors if name.endswith(A)})
    merged: dict[str, Tensor] = {}
    for layer in layers:
        have = next(one.tensors for one in loaded if layer + A in one.tensors)
        rows, columns = [], []
        for one, (_, weight) in zip(loaded, terms, strict=True):
            r = one.settings["r"]
            down = one.tensors.get(layer + A, torch.zeros(r, have[layer + A].shape[1]))  # [r, in]
            up = one.tensors.get(layer + B, torch.zeros(have[layer + B].shape[0], r))  # [out, r]
            rows.append(down.float())
            columns.append(up.float() * (weight * one.scale))
        merged[layer + A] = torch.cat(rows, dim=0)
        merged[layer + B] = torch.cat(columns, dim=1).contiguous()
    targets = sorted({target for one in loaded for target in one.settings["target_modules"]})
    settings = {**first, "r": rank, "lora_alpha": rank, "use_rslora": False, "target_modules": targets}
    with new_folder(out) as new:
        save_file(merged, new / TENSORS, metadata={"format": "pt"})
        (new / SETTINGS).write_text(json.dumps(settings, indent=2, sort_keys=True) + "\n", encoding="utf-8")
        _copy_tokenizer(loaded[0].folder, new)
    return f"{out}: an adapter of rank {rank} for {len(layers)} layers of {Path(first['base_model_name_or_path']).name}"


def _load(folder: Path) -> _Loaded:
    from safetensors.torch import load_file

    if not (folder / SETTINGS).is_file():
        raise ValueError(f"{folder} holds no adapter: it has no {SETTINGS}. Fix: name a policy of a run with LoRA.")
    settings = json.loads((folder / SETTINGS).read_text(encoding="utf-8"))
    _check_plain(folder, settings)
    return _Loaded(folder, settings, load_file(folder / TENSORS))


def _check_plain(folder: Path, settings: Mapping[str, Any]) -> None:
    for key, plain in PLAIN.items():
        if (value := settings.get(key)) not in (plain, None):
            raise ValueError(f"{folder}: {key}={value} is no plain LoRA. Fix: merge adapters that rlhf-flow trained.")
    if not isinstance(settings["target_modules"], list):
        raise ValueError(f"{folder}: target_modules must be a list. Fix: list the layers in {SETTINGS}.")


def _copy_tokenizer(source: Path, target: Path) -> None:
    for path in source.iterdir():
        if path.name.startswith(("tokenizer", "special_tokens", "chat_template", "vocab", "merges")):
            (target / path.name).write_bytes(path.read_bytes())
