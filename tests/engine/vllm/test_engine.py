"""What only vLLM can do wrong."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Mapping
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np
import pytest

from rlhf_flow.engine.vllm.spec import VLLM
from rlhf_flow.specs import Model
from rlhf_flow.types import Prompt, SamplingParams
from rlhf_flow.weights.source import InMemoryWeights
from tests.engine.conftest import Mixed

if TYPE_CHECKING:
    from tests.engine.conftest import Opener, Server, World

DRAW = SamplingParams(n=4, max_tokens=24)


@pytest.mark.parametrize(
    ("field", "value", "rule"),
    [
        ("max_model_len", 1, ">= 2"),
        ("kv_cache_mib", 0, ">= 1"),
        ("gpu_memory_utilization", 1.5, r"in \(0, 1\]"),
        ("block_size", 0, ">= 1"),
        ("max_num_seqs", 0, ">= 1"),
        ("tensor_parallel", 0, ">= 1"),
        ("lora_rank", 513, r"in 0\.\.512"),
        ("probe_tolerance", 0.0, "> 0"),
    ],
)
def test_impossible_settings_are_refused(field: str, value: object, rule: str) -> None:
    with pytest.raises(ValueError, match=rf"engine\.{field} must be {rule}, got {value}"):
        VLLM(**{field: value})


def test_composing_a_configuration_imports_no_engine() -> None:
    code = (
        "import sys, rlhf_flow.engine; sys.exit(any(name in sys.modules for name in ('torch', 'transformers', 'vllm')))"
    )
    assert subprocess.run([sys.executable, "-c", code], env={"PYTHONPATH": ":".join(sys.path)}).returncode == 0


def test_a_missing_package_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("rlhf_flow.system.optional_deps.find_spec", lambda name: None)
    with pytest.raises(ValueError, match=r"pip install 'rlhf-flow\[vllm\]'.*engine=huggingface"):
        VLLM().check()


@pytest.mark.vllm
def test_vllm_chooses_how_many_answers_it_generates_at_a_time(world: World) -> None:
    code = f"""
from vllm.engine.arg_utils import EngineArgs
from rlhf_flow.engine.vllm.spec import VLLM
from rlhf_flow.specs import Model, Place

for spec in (VLLM(kv_cache_mib=16), VLLM(kv_cache_mib=16, max_num_seqs=7)):
    engine = spec.open(Model({str(world.folder)!r}), Place())
    print("slots", engine.llm.llm_engine.vllm_config.scheduler_config.max_num_seqs)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=240)
    assert [line for line in done.stdout.splitlines() if line.startswith("slots")] == ["slots 256", "slots 7"]


@pytest.mark.vllm
def test_more_positions_than_the_model_has_are_refused(server: Server, world: World) -> None:
    with pytest.raises(ValueError, match=r"cannot serve .*max_model_len.*Fix: lower engine\.max_model_len"):
        server.open(VLLM(kv_cache_mib=16, max_model_len=129), world.model)


@pytest.mark.vllm
def test_nan_weights_raise_and_the_next_call_raises_instead_of_hanging(
    server: Server, world: World, prompts: list[Prompt]
) -> None:
    engine = server.open(VLLM(kv_cache_mib=16), world.model)
    state = {name: tensor * float("nan") for name, tensor in world.state(1).items()}
    broken = replace(world.policy(1), sha256="f" * 64, weights=InMemoryWeights(state), probe=None)
    with pytest.raises(RuntimeError, match="NaN"):
        engine.generate(prompts, broken, DRAW, round=1, seed=7)
    with pytest.raises(RuntimeError, match="failed while generating and does not recover"):
        engine.generate(prompts, broken, DRAW, round=1, seed=7)


@pytest.mark.vllm
def test_a_request_that_vllm_refuses_leaves_the_engine_usable(
    vllm_opener: Opener, world: World, prompts: list[Prompt]
) -> None:
    engine = vllm_opener.shared(world)
    with pytest.raises(ValueError, match="vLLM refuses the request"):
        engine.generate([Prompt("odd", (), (0, 5000))], world.start, DRAW, round=1, seed=7)
    assert len(engine.generate(prompts, world.start, DRAW, round=1, seed=7).responses) == len(prompts)


@pytest.mark.vllm
def test_a_crowded_cache_changes_no_answer(
    server: Server, vllm_opener: Opener, world: World, prompts: list[Prompt]
) -> None:
    roomy = vllm_opener.shared(world)
    crowded = server.open(VLLM(kv_cache_mib=1, max_num_seqs=16), world.model)
    pair = [engine.generate(prompts, world.start, DRAW, round=1, seed=7).responses for engine in (roomy, crowded)]
    for left, right in zip(*pair, strict=True):
        assert all(np.array_equal(a.tokens, b.tokens) for a, b in zip(left, right, strict=True))


@pytest.mark.vllm
def test_bfloat16_loads_new_weights_and_sees_stale_ones(server: Server, world: World, prompts: list[Prompt]) -> None:
    engine = server.open(VLLM(kv_cache_mib=16), Model(str(world.folder), dtype="bfloat16"))
    rollouts = engine.generate(prompts, world.policy(1), DRAW, round=1, seed=7)
    drawn = [response.logps for group in rollouts.responses for response in group]
    assert world.worst_error(1, rollouts, drawn) < 1.0  # nats: one token, rounded in every layer
    with pytest.raises(RuntimeError, match=r"mean difference .* allows 0\.2 in bfloat16"):
        engine.generate(prompts, world.policy(2, probed_as=3), DRAW, round=1, seed=7)


@pytest.mark.soak
@pytest.mark.vllm
def test_two_ranks_of_tensor_parallelism_get_new_weights(
    fresh_server: Server, worlds: Mapping[str, World], prompts: list[Prompt]
) -> None:
    world = worlds["tied"]
    engine = fresh_server.open(VLLM(kv_cache_mib=16, tensor_parallel=2), world.model, mixes=True)
    for of in (0, 1, Mixed(policy=2, reference=1, weight=0.3)):
        asked = world.mixture(of) if isinstance(of, Mixed) else world.start if of == 0 else world.policy(of)
        rollouts = engine.generate(prompts, asked, DRAW, round=1, seed=7)
        drawn = [response.logps for group in rollouts.responses for response in group]
        assert world.worst_error(of, rollouts, drawn) < 1e-4
    engine.close()
