"""How weights reach vLLM, and when it may reuse what it cached: on a stand-in that takes notes."""

from __future__ import annotations

from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch

from rlhf_flow.engine.vllm.weights import Weights
from rlhf_flow.weights.broadcast import Channel

STATE = {"head": torch.ones(2), "body": torch.zeros(2)}


class Llm:
    """vLLM's workers, of which two receive what is broadcast."""

    def __init__(self) -> None:
        self.notes: list[str] = []

    def collective_rpc(self, method: str, *, args: tuple = (), kwargs: Mapping | None = None) -> None:
        if method == "mix":
            self.notes.append(f"mix {args[0]}")
        elif kwargs is not None:
            self.notes.append(f"tensors {' '.join(name for name, _ in kwargs['weights_iterator'])}")
        elif method == "init_weight_transfer_engine":
            join = args[0]
            with ThreadPoolExecutor(2) as pool:
                self.opened = list(pool.map(lambda k: Channel(**join | {"rank": join["rank"] + k}).open(), range(2)))
        elif method == "update_weights":
            with ThreadPoolExecutor(2) as pool:
                found = [
                    dict(pair for bucket in one for pair in bucket.tensors())
                    for one in pool.map(lambda end: list(end.receive()), self.opened)
                ]
            assert all(torch.equal(one[name], STATE[name]) for one in found for name in STATE)
            self.notes.append(f"{len(found)} receive {' '.join(args[0]['prefix'] + name for name in found[0])}")
        elif not method.endswith("weight_update"):
            self.notes.append(method)

    def reset_prefix_cache(self) -> bool:
        self.notes.append("forget")
        return True


@pytest.mark.parametrize(
    ("mixes", "ranks", "note"),
    [
        (False, 1, "tensors head body"),
        (False, 2, "2 receive body head"),
        (True, 1, "tensors reference.head reference.body"),
        (True, 2, "2 receive reference.body reference.head"),
    ],
)
def test_weights_go_to_their_slot_and_nothing_packed_or_cached_survives(
    mixes: bool, ranks: int, note: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("GLOO_SOCKET_IFNAME", "lo")
    llm = Llm()
    Weights(llm, mixes=mixes, ranks=ranks).load(1, iter(STATE.items()))
    assert llm.notes == [note, "pack_heads", "forget"]


def test_what_is_cached_survives_only_between_mixtures() -> None:
    llm = Llm()
    weights = Weights(llm, mixes=True, ranks=1)
    for share in (0, 0.0, 0.3, 0.6, 0.6, 1, 0):
        weights.mix(share)
    assert " ".join(llm.notes) == "mix 0 forget mix 0.3 forget mix 0.6 mix 1 forget mix 0 forget"


def test_an_engine_of_one_policy_has_nothing_to_mix() -> None:
    llm = Llm()
    Weights(llm, mixes=False, ranks=1).mix(0)
    assert llm.notes == []
