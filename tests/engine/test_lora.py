"""Adapters do not change the base weights of an engine, which can always sample from the base."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pytest

from rlhf_flow.engine.huggingface import HuggingFace
from rlhf_flow.engine.vllm.spec import VLLM
from rlhf_flow.specs import Place
from rlhf_flow.types import Mixture, Policy, Probe, Prompt, Rollouts, SamplingParams
from rlhf_flow.weights.fingerprint import adapter_fingerprint, fingerprint
from rlhf_flow.weights.source import PREFIX, Adapter, InMemoryWeights
from tests.engine.conftest import Opener

pytestmark = pytest.mark.slow

if TYPE_CHECKING:
    from torch import Tensor

    from rlhf_flow.protocols import Engine
    from tests.engine.conftest import Server, World

DRAW = SamplingParams(n=2, max_tokens=12)
TOKENS = (0, *range(20, 40))
LAYERS = ("self_attn.q_proj", "self_attn.o_proj", "mlp.gate_proj", "mlp.down_proj")


def adapter(world: World, seed: int, *, rank: int = 4, probe: bool = True) -> Policy:
    """A random adapter for some layers of a world, with the probe that belongs to it."""
    import torch

    random, state = torch.Generator().manual_seed(seed), world.state(0)
    tensors: dict[str, Tensor] = {}
    for layer in [f"model.layers.{i}.{name}" for i in range(2) for name in LAYERS]:
        out, into = state[f"{layer}.weight"].shape
        tensors[f"{PREFIX}{layer}.lora_A.weight"] = torch.randn(rank, into, generator=random) / into**0.5
        tensors[f"{PREFIX}{layer}.lora_B.weight"] = torch.randn(out, rank, generator=random) / 4
    weights = Adapter(world.start.weights, world.start.sha256, rank, 2.0 * rank, InMemoryWeights(tensors))
    sha256 = adapter_fingerprint(world.start.sha256, fingerprint(tensors), scale=weights.scale)
    proof = Probe(TOKENS, 3, tuple(logps(world, weights, TOKENS, 3).tolist())) if probe else None
    return Policy("adapted", seed, sha256, weights, proof)


def logps(world: World, weights: Adapter, tokens: tuple[int, ...], first: int) -> np.ndarray:
    """float32 log-probs of tokens[first:] by a model of transformers that has the weights of the sum."""
    import torch
    from transformers import LlamaForCausalLM

    network = LlamaForCausalLM.from_pretrained(world.folder).eval()
    state = world.state(0)
    for name, (down, up) in weights.terms().items():
        state[f"{name}.weight"] += weights.scale * up @ down
    network.load_state_dict(state)
    with torch.inference_mode():
        found = network(torch.tensor([list(tokens)])).logits[0, first - 1 : -1].log_softmax(-1)
    return found.gather(-1, torch.tensor(tokens)[first:, None])[:, 0].numpy()


def worst(world: World, policy: Policy, rollouts: Rollouts) -> float:
    """The largest difference of what was drawn to that model's log-probs, in nats."""
    assert isinstance(policy.weights, Adapter)
    return max(
        float(np.abs(r.logps - logps(world, policy.weights, (*p.tokens, *r.tokens.tolist()), len(p.tokens))).max())
        for p, group in zip(rollouts.prompts, rollouts.responses, strict=True)
        for r in group
    )


def same(left: Rollouts, right: Rollouts) -> bool:
    """Token for token, and log-prob for log-prob, bit for bit."""
    pairs = zip(left.responses, right.responses, strict=True)
    return all(
        np.array_equal(a.tokens, b.tokens) and np.array_equal(a.logps, b.logps)
        for one, other in pairs
        for a, b in zip(one, other, strict=True)
    )


def changes(engine: Engine, world: World, prompts: list[Prompt], *, times: int) -> None:
    """The base and an adapter draw the same, to the bit, before and after so many other adapters."""
    first = adapter(world, 1)
    base = engine.generate(prompts, world.start, DRAW, round=1, seed=7)
    adapted = engine.generate(prompts, first, DRAW, round=1, seed=7)
    assert not same(base, adapted)
    assert worst(world, first, adapted) < 1e-4
    for seed in range(2, 2 + times):
        engine.generate(prompts[:1], adapter(world, seed), replace(DRAW, max_tokens=1), round=1, seed=7)
    assert same(engine.generate(prompts, world.start, DRAW, round=1, seed=7), base)
    assert same(engine.generate(prompts, first, DRAW, round=1, seed=7), adapted)


def test_a_hundred_transfers_leave_no_bit_of_the_base_changed(world: World, prompts: list[Prompt]) -> None:
    engine = HuggingFace().open(world.model, Place())
    before = fingerprint(engine._networks[0].state_dict())
    changes(engine, world, prompts[:3], times=100)
    assert fingerprint(engine._networks[0].state_dict()) == before == fingerprint(world.start.weights.load())


@pytest.mark.vllm
@pytest.mark.parametrize("rank", [0, 4])
def test_nor_do_they_in_vllm(
    server: Server, vllm_opener: Opener, world: World, prompts: list[Prompt], rank: int
) -> None:
    """Beside the weights, and as whole weights that are computed anew from the base in each transfer."""
    with_room = VLLM(kv_cache_mib=16, lora_rank=rank)
    engine = server.open(with_room, world.model) if rank else vllm_opener.shared(world)
    changes(engine, world, prompts[:6], times=24)


def test_whole_weights_and_adapters_take_turns(
    opener: Opener, worlds: Mapping[str, World], prompts: list[Prompt]
) -> None:
    """Whatever was there, an adapter stands on its own base."""
    world = worlds["tied"]
    engine, policy = opener.shared(world), adapter(world, 1)
    fresh = opener.fresh(world).generate(prompts[:4], policy, DRAW, round=1, seed=7)
    assert worst(world, policy, fresh) < 1e-4
    for other in (world.policy(3), world.start):
        drawn = engine.generate(prompts[:4], other, DRAW, round=1, seed=7)
        seed = 0 if other is world.start else 3
        assert world.worst_error(seed, drawn, [r.logps for group in drawn.responses for r in group]) < 1e-4
        assert same(engine.generate(prompts[:4], policy, DRAW, round=1, seed=7), fresh)


@pytest.mark.vllm
def test_whole_weights_and_adapters_take_turns_in_vllm_with_room_for_adapters(
    server: Server, worlds: Mapping[str, World], prompts: list[Prompt]
) -> None:
    opener = Opener(lambda model, mixes: server.open(VLLM(kv_cache_mib=16, lora_rank=8), model, mixes=mixes))
    test_whole_weights_and_adapters_take_turns(opener, worlds, prompts)


def test_an_adapter_and_its_base_can_be_mixed(mixer: Engine, world: World, prompts: list[Prompt]) -> None:
    policy = adapter(world, 1)
    drawn = mixer.generate(prompts[:3], Mixture(policy, world.start, 0.5), DRAW, round=1, seed=7)
    alone = [mixer.logps(drawn, each) for each in (policy, world.start)]
    mixed = mixer.logps(drawn, Mixture(policy, world.start, 0.5))
    flat = [response.logps for group in drawn.responses for response in group]
    assert all(np.allclose(ours, theirs, atol=1e-4) for ours, theirs in zip(mixed, flat, strict=True))
    assert all(
        not np.allclose(ours, each, atol=1e-2) for each_of in alone for ours, each in zip(mixed, each_of, strict=True)
    )


def test_an_adapter_that_is_not_what_it_claims_is_found_out(world: World, prompts: list[Prompt]) -> None:
    engine = HuggingFace().open(world.model, Place())
    liar = replace(adapter(world, 1), probe=adapter(world, 2).probe)
    with pytest.raises(RuntimeError, match="the engine does not hold policy 'adapted'"):
        engine.generate(prompts[:1], liar, DRAW, round=1, seed=7)
    assert engine.generate(prompts[:1], world.start, DRAW, round=1, seed=7).responses


def test_an_adapter_for_another_architecture_is_refused(world: World, prompts: list[Prompt]) -> None:
    engine = HuggingFace().open(world.model, Place())
    policy = adapter(world, 1)
    assert isinstance(policy.weights, Adapter)
    tensors = policy.weights.tensors.load()
    name = f"{PREFIX}model.layers.0.self_attn.q_proj.lora_B.weight"
    for wrong in (
        {**tensors, name: tensors[name][:5]},
        {k.replace("layers.1", "layers.7"): v for k, v in tensors.items()},
    ):
        odd = replace(policy, sha256="x", weights=replace(policy.weights, tensors=InMemoryWeights(wrong)))
        with pytest.raises(ValueError, match=r"its adapter is not for .* of model\.layers\.[07]\.\w+\.\w+ it is"):
            engine.generate(prompts[:1], odd, DRAW, round=1, seed=7)


@pytest.mark.vllm
def test_an_adapter_of_a_higher_rank_than_there_is_room_for_is_refused(
    server: Server, world: World, prompts: list[Prompt]
) -> None:
    engine = server.open(VLLM(kv_cache_mib=16, lora_rank=2), world.model)
    with pytest.raises(ValueError, match=r"engine\.lora_rank=2: .* at least .* 4\. Fix: engine\.lora_rank=4"):
        engine.generate(prompts[:1], adapter(world, 1), DRAW, round=1, seed=7)
    small = adapter(world, 1, rank=2)
    assert worst(world, small, engine.generate(prompts[:1], small, DRAW, round=1, seed=7)) < 1e-4


def test_the_weights_of_the_sum_are_new_tensors(world: World) -> None:
    import torch

    policy = adapter(world, 1)
    assert isinstance(policy.weights, Adapter)
    once, again = policy.weights.load(), policy.weights.load()
    terms, base = policy.weights.terms(), world.state(0)
    assert fingerprint(once) == fingerprint(again)
    for name, tensor in base.items():
        layer = name.removesuffix(".weight")
        delta = policy.weights.scale * terms[layer][1] @ terms[layer][0] if layer in terms else torch.zeros(())
        assert torch.allclose(once[name], tensor + delta, atol=1e-6)
    assert Path(world.folder / "model.safetensors").exists()
