"""The identity of weights: the same from any number of threads and ranks, another one if anything differs."""

from __future__ import annotations

import pytest
import torch

from rlhf_flow.weights import fingerprint as module
from rlhf_flow.weights.fingerprint import Fingerprint, fingerprint

STATE = {"a": torch.arange(6.0).view(2, 3), "b": torch.zeros(0), "c": torch.tensor(3), "d": torch.arange(1000.0)}


@pytest.fixture(autouse=True)
def small_leaves(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "LEAF", 128)
    monkeypatch.setattr(module, "PENDING", 300)


@pytest.mark.parametrize("threads", [1, 4])
@pytest.mark.parametrize("ranks", [1, 2, 5])
def test_ranks_that_share_the_leaves_find_the_same_identity(ranks: int, threads: int) -> None:
    digests = [Fingerprint(threads=threads, rank=rank, ranks=ranks) for rank in range(ranks)]
    for digest in digests:
        digest.add_all(sorted(STATE.items()))
    leaves: dict[int, bytes] = {}
    for digest in digests:
        digest.hexdigest(lambda own: leaves.update(own) or dict.fromkeys(range(1000), b""))
    assert len(leaves) == 1 + 1 + 1 + 32, "4000 bytes are 32 leaves"
    found = {digest.hexdigest(lambda own: leaves) for digest in digests}
    assert found == {fingerprint(STATE)}


@pytest.mark.parametrize(
    "other",
    [
        {**STATE, "a": STATE["a"].view(3, 2)},
        {**STATE, "a": STATE["a"].to(torch.int32)},
        {**STATE, "d": STATE["d"].flip(0)},
        {**STATE, "e": torch.zeros(0)},
        {("z" if name == "d" else name): tensor for name, tensor in STATE.items()},
        {name: tensor for name, tensor in STATE.items() if name != "b"},
    ],
    ids=["shape", "dtype", "values", "one more", "name", "one less"],
)
def test_other_weights_have_another_identity(other: dict[str, torch.Tensor]) -> None:
    assert fingerprint(other) != fingerprint(STATE)


def test_the_order_in_a_dictionary_does_not_matter() -> None:
    assert fingerprint(dict(reversed(STATE.items()))) == fingerprint(STATE)
