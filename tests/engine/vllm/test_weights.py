"""How weights reach vLLM, and when it may reuse what it cached: on a stand-in that takes notes."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from rlhf_flow.engine.vllm.weights import Weights

STATE = {"head": torch.ones(2), "body": torch.zeros(2)}


class Llm:
    def __init__(self) -> None:
        self.notes: list[str] = []

    def collective_rpc(self, method: str, *, args: tuple = (), kwargs: Mapping | None = None) -> None:
        if method == "mix":
            self.notes.append(f"mix {args[0]}")
        elif kwargs is None:
            self.notes.append(method)
        elif "weights_path" in kwargs:
            self.notes.append(f"file {' '.join(load_file(next(Path(kwargs['weights_path']).glob('*.safetensors'))))}")
        else:
            self.notes.append(f"tensors {' '.join(name for name, _ in kwargs['weights_iterator'])}")

    def reset_prefix_cache(self) -> bool:
        self.notes.append("forget")
        return True


@pytest.mark.parametrize(
    ("mixes", "processes", "note"),
    [
        (False, False, "tensors head body"),
        (False, True, "file body head"),
        (True, False, "tensors reference.head reference.body"),
        (True, True, "file reference.body reference.head"),
    ],
)
def test_weights_go_to_their_slot_and_nothing_packed_or_cached_survives(
    mixes: bool, processes: bool, note: str
) -> None:
    llm = Llm()
    Weights(llm, mixes=mixes, processes=processes).load(1, iter(STATE.items()))
    assert llm.notes == [note, "pack_heads", "forget"]


def test_what_is_cached_survives_only_between_mixtures() -> None:
    llm = Llm()
    weights = Weights(llm, mixes=True, processes=False)
    for share in (0, 0.0, 0.3, 0.6, 0.6, 1, 0):
        weights.mix(share)
    assert " ".join(llm.notes) == "mix 0 forget mix 0.3 forget mix 0.6 mix 1 forget mix 0 forget"


def test_an_engine_of_one_policy_has_nothing_to_mix() -> None:
    llm = Llm()
    Weights(llm, mixes=False, processes=False).mix(0)
    assert llm.notes == []
