"""Which policy is in which slot of an engine, and what two models' logits become."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
import pytest
import torch

from rlhf_flow.engine.loaded_policy import LoadedPolicy
from rlhf_flow.engine.mixture import PolicySlots, blend
from rlhf_flow.specs import Model
from rlhf_flow.types import Mixture, Policy, Probe
from rlhf_flow.weights.source import InMemoryWeights


class Worker:
    """Stands for an engine: in each slot a weight, which is all its log-probs."""

    def __init__(self, *, slots: int = 2) -> None:
        self.values, self.loads = [0.0] * slots, 0
        loaded = [LoadedPolicy(Model("m"), {"w": (1,)}, max_model_len=16, tolerance=None) for _ in range(slots)]
        self.slots = PolicySlots(loaded, load=self.load, measure=self.measure)

    def load(self, slot: int, tensors: Iterator[tuple[str, torch.Tensor]]) -> None:
        self.values[slot], self.loads = float(dict(tensors)["w"]), self.loads + 1

    def measure(self, slot: int, tokens: Sequence[int], first: int) -> np.ndarray:
        return np.full(len(tokens) - first, self.values[slot], np.float32)

    def drawn(self, asked: Policy | Mixture) -> float:
        """What the weights come to that would be drawn from."""
        weight = self.slots.hold(asked)
        return self.values[0] if len(self.values) == 1 else (1 - weight) * self.values[0] + weight * self.values[1]


def policy(value: float) -> Policy:
    probe = Probe(tuple(range(8)), 2, (value,) * 6)
    return Policy("p", 1, f"hash of {value}", InMemoryWeights({"w": torch.tensor([value])}), probe)


A, B, C = policy(-1.0), policy(-2.0), policy(-4.0)


@pytest.mark.parametrize(
    ("asked", "drawn", "loads"),
    [
        ((A, B, A), (-1, -2, -1), 3),  # one policy after another takes one slot
        ((Mixture(A, B, 0.25), A, B, Mixture(A, B, 0.5)), (-1.25, -1, -2, -1.5), 2),  # each is drawn from where it is
        ((Mixture(A, B, 0.25), C, B, Mixture(A, B, 0.25)), (-1.25, -4, -2, -1.25), 4),  # the reference stays
        ((Mixture(A, B, 0.25), Mixture(C, B, 0.25)), (-1.25, -3.5), 3),
        ((Mixture(A, B, 0.25), Mixture(B, A, 0.25)), (-1.25, -1.75), 4),
        ((Mixture(A, B, 0.0), Mixture(A, B, 1.0)), (-1, -2), 2),
        ((Mixture(A, A, 0.5),), (-1,), 1),
    ],
)
def test_exactly_what_is_asked_is_held(
    asked: tuple[Policy | Mixture, ...], drawn: tuple[float, ...], loads: int
) -> None:
    worker = Worker()
    assert [worker.drawn(each) for each in asked] == list(drawn)
    assert worker.loads == loads


def test_one_slot_holds_policies_and_refuses_mixtures() -> None:
    worker = Worker(slots=1)
    assert [worker.drawn(A), worker.drawn(B)] == [-1, -2]
    with pytest.raises(ValueError, match="open it with mixes=True"):
        worker.drawn(Mixture(A, B, 0.0))
    assert worker.loads == 2


def test_a_blend_is_the_normalised_product_of_powers() -> None:
    first, second = torch.randn(3, 5, dtype=torch.float64), torch.randn(3, 5, dtype=torch.float64)
    product = first.softmax(-1) ** 0.7 * second.softmax(-1) ** 0.3
    mixed = blend([first, second], 0.3)
    assert mixed.dtype == torch.float32
    torch.testing.assert_close(mixed.double().softmax(-1), product / product.sum(-1, keepdim=True), atol=1e-6, rtol=0)
    assert blend([first], 0.3) is first


def test_a_token_that_either_model_excludes_is_excluded() -> None:
    no = -float("inf")
    mixed = blend([torch.tensor([[0.0, no, no, 1.0]]), torch.tensor([[0.0, 0.0, no, no]])], 0.3)
    assert mixed.softmax(-1).tolist() == [[1, 0, 0, 0]]
