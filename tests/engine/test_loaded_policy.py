"""An engine holds a policy only after it was loaded and its probe agreed."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from rlhf_flow.engine.loaded_policy import LoadedPolicy
from rlhf_flow.specs import Model
from rlhf_flow.types import Policy, Probe
from rlhf_flow.weights.source import Adapter, Checkpoint, InMemoryWeights


class Worker:
    """Stands for an engine: its log-probs are its only weight."""

    def __init__(self, *, dtype: str = "float32", tolerance: float | None = None, max_model_len: int = 16) -> None:
        self.value, self.loads, self.measured = 0.0, 0, 0
        model = Model("models/start", dtype=dtype)
        self.loaded = LoadedPolicy(model, {"w": (1,)}, max_model_len=max_model_len, tolerance=tolerance)

    def fetch(self, policy: Policy) -> None:
        self.loaded.fetch(policy, self.load, self.measure)

    def load(self, tensors: Iterator[tuple[str, torch.Tensor]]) -> None:
        self.value, self.loads = float(dict(tensors)["w"]), self.loads + 1

    def measure(self, tokens: Sequence[int], first: int) -> np.ndarray:
        self.measured = len(tokens) - first
        return np.full(self.measured, self.value, np.float32)


def policy(name: str, value: float, *, claims: float | None = None, length: int = 8) -> Policy:
    probe = Probe(tuple(range(length)), 2, (value if claims is None else claims,) * (length - 2))
    return Policy(name, 3, f"hash of {name}", InMemoryWeights({"w": torch.tensor([value])}), probe)


def start(path: str) -> Policy:
    return Policy("start", 0, "hash of start", Checkpoint(Path(path)))


def stands_for(weights: InMemoryWeights, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever checkpoint is read, it holds these."""
    monkeypatch.setattr(Checkpoint, "index", lambda self: weights.index())
    monkeypatch.setattr(Checkpoint, "stream", lambda self: weights.stream())


def test_the_opened_checkpoint_is_held_already() -> None:
    worker = Worker()
    worker.fetch(start("models/start"))
    worker.fetch(start("models/../models/start"))
    assert worker.loads == 0


def test_the_opened_checkpoint_is_proven_once_if_the_learner_says_what_it_reads_from_it() -> None:
    worker = Worker()
    probed = replace(start("models/start"), probe=Probe(tuple(range(8)), 1, (0.0,) * 7))
    worker.fetch(probed)
    assert (worker.loads, worker.measured) == (0, 7)
    worker.measured = 0
    worker.fetch(probed)
    assert worker.measured == 0


def test_an_engine_that_reads_other_weights_from_the_checkpoint_is_refused_each_time() -> None:
    worker = Worker()
    probed = replace(start("models/start"), probe=Probe(tuple(range(8)), 1, (-0.5,) * 7))
    for _ in range(2):
        with pytest.raises(RuntimeError, match=r"model\.path=models/start: the engine reads other weights .* Fix: "):
            worker.fetch(probed)
    worker.fetch(policy("a", -2.0))
    assert worker.value == -2.0


def test_the_opened_checkpoint_is_loaded_once_something_else_was(monkeypatch: pytest.MonkeyPatch) -> None:
    stands_for(InMemoryWeights({"w": torch.tensor([-1.0])}), monkeypatch)
    worker = Worker()
    worker.fetch(start("models/start"))
    worker.fetch(policy("a", -2.0))
    worker.fetch(start("models/start"))
    assert (worker.loads, worker.value) == (2, -1.0)


def test_another_checkpoint_is_loaded(monkeypatch: pytest.MonkeyPatch) -> None:
    stands_for(InMemoryWeights({"w": torch.tensor([-1.0])}), monkeypatch)
    worker = Worker()
    worker.fetch(start("models/other"))
    assert worker.loads == 1


def test_a_policy_is_loaded_once() -> None:
    worker = Worker()
    for name, value in (("a", -2.0), ("a", -2.0), ("b", -3.0), ("a", -2.0)):
        worker.fetch(policy(name, value))
    assert worker.loads == 3


def test_after_a_failed_probe_nothing_is_believed() -> None:
    worker = Worker()
    worker.fetch(policy("a", -2.0))
    with pytest.raises(RuntimeError, match=r"'b' of round 3 .* over 6 tokens .* largest difference .* 0\.5 nats"):
        worker.fetch(policy("b", -3.0, claims=-3.5))
    worker.fetch(policy("a", -2.0))
    assert (worker.loads, worker.value) == (3, -2.0)


def test_a_failed_load_leaves_nothing_to_believe() -> None:
    worker = Worker()
    worker.fetch(policy("a", -2.0))

    def fail(tensors: Iterator[tuple[str, torch.Tensor]]) -> None:
        raise OSError("half way")

    with pytest.raises(OSError, match="half way"):
        worker.loaded.fetch(policy("b", -3.0), fail, worker.measure)
    worker.fetch(policy("a", -2.0))
    assert worker.loads == 2


@pytest.mark.parametrize(
    ("dtype", "tolerance", "off", "passes"),
    [
        ("float32", None, 9e-4, True),
        ("float32", None, 2e-3, False),
        ("float32", 1e-2, 2e-3, True),
        ("bfloat16", None, 0.15, True),
        ("bfloat16", None, 0.25, False),
        ("float32", None, float("nan"), False),
    ],
)
def test_the_tolerance_depends_on_the_dtype(dtype: str, tolerance: float | None, off: float, passes: bool) -> None:
    worker = Worker(dtype=dtype, tolerance=tolerance)
    asked = policy("a", -2.0, claims=-2.0 + off)
    if passes:
        worker.fetch(asked)
    else:
        with pytest.raises(RuntimeError, match="does not hold policy 'a'"):
            worker.fetch(asked)


def test_a_probe_longer_than_the_engine_is_cut() -> None:
    worker = Worker(max_model_len=6)
    worker.fetch(policy("a", -2.0))
    assert worker.measured == 3  # five tokens leave room for the one that vLLM insists on sampling
    with pytest.raises(ValueError, match="context of 2 tokens does not fit max_model_len=3"):
        Worker(max_model_len=3).fetch(policy("a", -2.0))


def test_a_wrong_state_dict_reaches_no_engine() -> None:
    worker = Worker()
    wrong = Policy("a", 3, "hash", InMemoryWeights({"v": torch.zeros(1)}))
    with pytest.raises(ValueError, match=r"lacks w \(1 in all\); has unknown v \(1 in all\)"):
        worker.fetch(wrong)
    assert worker.loads == 0


class Adapted(Worker):
    """Its log-probs are its weight plus what the adapter adds."""

    added = 0.0

    def fetch(self, policy: Policy) -> None:
        self.loaded.fetch(policy, self.load, self.measure, self.set_adapter)

    def set_adapter(self, adapter: Adapter | None) -> None:
        self.added = 0.0 if adapter is None else adapter.alpha

    def measure(self, tokens: Sequence[int], first: int) -> np.ndarray:
        return super().measure(tokens, first) + np.float32(self.added)


def adapted(alpha: float, *, claims: float, sha256: str = "") -> Policy:
    base = Checkpoint(Path("models/start"))
    weights = Adapter(base, "hash of start", 1, alpha, InMemoryWeights({}))
    probe = Probe(tuple(range(8)), 2, (claims,) * 6)
    return Policy("adapted", 3, sha256 or f"hash of {alpha}", weights, probe)


def test_adapters_keep_their_base_and_it_is_loaded_again_after_other_weights(monkeypatch: pytest.MonkeyPatch) -> None:
    stands_for(InMemoryWeights({"w": torch.tensor([-1.0])}), monkeypatch)
    worker = Adapted()
    worker.fetch(adapted(-0.25, claims=-0.25))
    worker.fetch(start("models/start"))
    worker.fetch(adapted(-0.5, claims=-0.5))
    assert (worker.loads, worker.added) == (0, -0.5)
    worker.fetch(policy("a", -2.0))
    assert (worker.loads, worker.added) == (1, 0.0)
    worker.fetch(adapted(-0.5, claims=-1.5))
    worker.fetch(start("models/start"))
    assert (worker.loads, worker.value, worker.added) == (2, -1.0, 0.0)


def test_after_a_failed_probe_of_an_adapter_the_adapter_is_set_again_on_the_same_base() -> None:
    worker = Adapted()
    with pytest.raises(RuntimeError, match="does not hold policy 'adapted'"):
        worker.fetch(adapted(-0.25, claims=-0.5))
    worker.added = 7.0
    worker.fetch(adapted(-0.25, claims=-0.25))
    assert (worker.loads, worker.added) == (0, -0.25)


class Summed(Worker):
    """Its checksum is its weight. `deaf`: it ignores what is loaded."""

    deaf = False

    def __init__(self) -> None:
        super().__init__(dtype="bfloat16")
        self.loaded = LoadedPolicy(
            Model("models/start", dtype="bfloat16"), {"w": (1,)}, max_model_len=16, tolerance=None, checksum=self.sum
        )

    def load(self, tensors: Iterator[tuple[str, torch.Tensor]]) -> None:
        if not self.deaf:
            super().load(tensors)

    def sum(self) -> float:
        return self.value


def test_the_weights_of_the_policy_before_are_refused_though_their_probe_agrees_in_bfloat16() -> None:
    worker = Summed()
    worker.fetch(policy("a", -2.0))
    worker.deaf = True
    with pytest.raises(RuntimeError, match="still holds the weights of round 3"):
        worker.fetch(policy("b", -2.1))  # within 0.2 nats
    worker.deaf = False
    worker.fetch(policy("b", -2.1))
    assert worker.value == pytest.approx(-2.1)


def test_received_weights_are_used_without_a_load_once_it_is_told_whose_they_are() -> None:
    worker = Summed()
    worker.fetch(policy("a", -2.0))
    with worker.loaded.receiving():
        worker.value = -2.1
    assert not worker.loaded.holds(policy("b", -2.1))
    worker.loaded.received("hash of b", 4)
    worker.fetch(policy("b", -2.1))
    assert (worker.loads, worker.measured) == (1, 6)


def test_weights_that_were_not_received_are_refused() -> None:
    worker = Summed()
    worker.fetch(policy("a", -2.0))
    with worker.loaded.receiving():
        pass
    with pytest.raises(RuntimeError, match="still holds the weights of round 3 after those of round 4"):
        worker.loaded.received("hash of b", 4)
    worker.fetch(policy("a", -2.0))
    assert worker.loads == 2


def test_adapters_that_change_nothing_when_they_are_merged_are_no_stale_weights(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(Adapter, "index", lambda self: InMemoryWeights({"w": torch.zeros(1)}).index())
    monkeypatch.setattr(Adapter, "stream", lambda self: iter([("w", torch.tensor([-1.0]))]))
    worker = Summed()
    worker.fetch(adapted(1.0, claims=-1.0))
    worker.fetch(adapted(2.0, claims=-1.0))
    assert worker.loads == 2
