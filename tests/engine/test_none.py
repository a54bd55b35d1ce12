"""The engine of a run that draws nothing."""

from __future__ import annotations

import pytest

from rlhf_flow.engine.none import NoEngine
from rlhf_flow.specs import Model, Place
from rlhf_flow.types import Policy, SamplingParams
from rlhf_flow.weights.source import InMemoryWeights


def test_it_takes_nothing_and_refuses_to_generate() -> None:
    spec = NoEngine()
    spec.check()
    assert (spec.gpus, spec.needs_own_process, spec.can_mix, spec.max_sequence(7)) == (0, False, False, 7)
    engine = spec.open(Model("nowhere"), Place())
    with pytest.raises(ValueError, match=r"engine=none: .* draw 'policy' asks for some. Fix: engine=vllm"):
        engine.generate([], Policy("policy", 0, "", InMemoryWeights({})), SamplingParams(), round=1, seed=0)
    engine.close()
