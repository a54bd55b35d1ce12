"""Answers that share a prompt's tokens have the log-probs and gradients that they have alone."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from copy import deepcopy
from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from transformers import (
    AutoModelForCausalLM,
    Gemma3TextConfig,
    GPT2Config,
    LlamaConfig,
    MambaConfig,
    MistralConfig,
    Phi3Config,
    PreTrainedConfig,
    PreTrainedModel,
    Qwen3Config,
)

from rlhf_flow.learner import attention
from rlhf_flow.learner.attention import Line, attend
from rlhf_flow.learner.backend_torch import TorchBackend
from rlhf_flow.learner.batching import Example, Group, Limits, Packed, Row, pack
from rlhf_flow.learner.inference import read_all
from rlhf_flow.learner.optimizer import Optimizer
from rlhf_flow.learner.packing import pack_groups
from rlhf_flow.learner.policy_model import CHECKED, ResponseLogps, ready, share_prompts
from rlhf_flow.learner.readout import PolicyReadout
from rlhf_flow.learner.setup import compile_layers
from rlhf_flow.learner.spans import Span, place
from rlhf_flow.learner.step import pair_loss, take_step
from rlhf_flow.learner.training import Training
from rlhf_flow.learner.varlen import reference
from rlhf_flow.objective.dpo import DPO
from tests.learner import test_policy_model as padded

SIZES = padded.SIZES | {"num_key_value_heads": 1, "initializer_range": 0.2, "bos_token_id": 1, "eos_token_id": 2}
CONFIGS: dict[str, PreTrainedConfig] = {
    "Llama": LlamaConfig(**SIZES),
    "Qwen 3": Qwen3Config(**SIZES),
    "Gemma 3 with windows": Gemma3TextConfig(
        **SIZES, sliding_window=4, layer_types=["sliding_attention", "full_attention"], query_pre_attn_scalar=8
    ),
    "GPT-2, learned positions": GPT2Config(
        vocab_size=64, n_embd=16, n_layer=2, n_head=2, n_positions=64, initializer_range=0.2
    ),
    "Mistral with a window": MistralConfig(**SIZES, sliding_window=3),
    "Phi-3": Phi3Config(**SIZES),
}
ROWS = st.lists(st.tuples(st.integers(0, 2), st.integers(1, 8)), min_size=1, max_size=8)


def make(config: PreTrainedConfig) -> PreTrainedModel:
    torch.manual_seed(0)
    return AutoModelForCausalLM.from_config(deepcopy(config)).eval()


def rows_of(drawn: list[tuple[int, int]], seed: int = 0) -> list[Row]:
    """Rows of one of three prompts, of 3, 9 and 1 tokens, each with an answer of a length."""
    random = np.random.default_rng(seed)
    prompts = [random.integers(1, 64, n).astype(np.int32) for n in (3, 9, 1)]
    return [Row(prompts[which], random.integers(1, 64, n).astype(np.int32)) for which, n in drawn]


def logps(model: ResponseLogps, packed: Packed) -> Tensor:
    return model(*map(torch.from_numpy, (packed.tokens, packed.at, packed.targets)), groups=packed.groups)


@given(ROWS)
def test_every_target_stands_behind_the_same_tokens(drawn: list[tuple[int, int]]) -> None:
    rows = rows_of(drawn)
    alone, shared = pack(rows), pack_groups(rows)
    np.testing.assert_array_equal(shared.targets, alone.targets)
    np.testing.assert_array_equal(shared.mask, alone.mask)
    assert shared.groups is not None
    line = Line(shared.groups, torch.device("cpu"))
    positions = line.positions.numpy()
    for here, there in zip(shared.at, alone.at, strict=True):
        own, place = divmod(int(there), alone.tokens.shape[1])
        assert positions[here] == place
        assert shared.tokens[0, here] == alone.tokens[own, place]
    assert shared.tokens.size == sum(len(row.tokens) - 1 for row in rows) + sum({len(row.prompt) for row in rows})


@given(ROWS, st.sampled_from([4, 100, 256]))
def test_a_line_may_be_filled_with_tokens_that_nothing_reads(drawn: list[tuple[int, int]], multiple: int) -> None:
    rows = rows_of(drawn)
    plain, filled = pack_groups(rows), pack_groups(rows, multiple)
    assert filled.tokens.size % multiple == 0
    assert filled.tokens.size - plain.tokens.size < multiple
    np.testing.assert_array_equal(filled.at, plain.at)
    np.testing.assert_array_equal(filled.tokens[0, : plain.tokens.size], plain.tokens[0])


@given(ROWS, st.sampled_from([None, 1, 3]))
def test_a_token_attends_to_its_prompt_and_its_own_answer(drawn: list[tuple[int, int]], window: int | None) -> None:
    """Each output is gathered from a query that sees exactly the tokens before it in its own conversation."""
    packed = pack_groups(rows_of(drawn))
    assert packed.groups is not None
    line, owner = Line(packed.groups, torch.device("cpu")), owners(packed.groups)
    positions, outputs = line.positions.numpy(), list[tuple[int, list[int]]]()
    for number, (queries, keys) in enumerate(zip(line.queries, line.keys, strict=True)):
        mask = line.mask(number, window)
        for r in range(len(queries)):
            for q, query in enumerate(queries[r].tolist()):
                allowed = range(q + 1) if mask is None else np.flatnonzero(mask[r, 0, q].numpy())
                outputs.append((query, sorted(keys[r, k].item() for k in allowed)))
    for token, output in enumerate(line.back.tolist()):
        query, seen = outputs[output]
        assert query == token
        expected = [
            other
            for other, (group, answer) in enumerate(owner)
            if group == owner[token][0]
            and answer in (None, owner[token][1])
            and 0 <= positions[token] - positions[other] < (window or 99)
        ]
        assert seen == expected


def owners(groups: tuple[Group, ...]) -> list[tuple[int, int | None]]:
    """The group and the answer of each place; None for a prompt."""
    found: list[tuple[int, int | None]] = []
    for number, group in enumerate(groups):
        found += [(number, None)] * group.prompt
        for answer, length in enumerate(group.answers):
            found += [(number, answer)] * length
    return found


@given(ROWS, st.sampled_from([None, 1, 3]), st.integers(0, 99))
def test_sequences_without_padding_attend_as_rectangles_do(
    drawn: list[tuple[int, int]], window: int | None, seed: int
) -> None:
    """The kernel itself needs a GPU; `reference` is what it computes, and `supported` compares the two there."""
    packed = pack_groups(rows_of(drawn))
    assert packed.groups is not None
    line = Line(packed.groups, torch.device("cpu"))
    generator, length = torch.Generator().manual_seed(seed), packed.tokens.size
    query, key, value = (torch.randn(1, heads, length, 8, generator=generator) for heads in (4, 2, 2))
    module = torch.nn.Module()
    module.num_key_value_groups, module.is_causal = 2, True  # type: ignore[assignment]
    expected, _ = attend(module, query, key, value, None, line=line, sliding_window=window)
    found = reference(line.sequences, query, key, value, window)
    torch.testing.assert_close(found[None], expected, rtol=0, atol=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("name", CONFIGS)
def test_log_probs_and_gradients_are_those_of_padded_rows(name: str, dtype: torch.dtype) -> None:
    plain, shared = (ResponseLogps(make(CONFIGS[name]).to(dtype), chunk=1000) for _ in range(2))
    assert share_prompts(shared)
    # Nats, and of the largest gradient. Some layers compute in float32 whatever the dtype.
    exact, tolerance = (1e-5, 1e-5) if dtype == torch.float32 else (1e-6, 1e-6)

    @settings(max_examples=34, deadline=None)
    @given(ROWS, st.integers(0, 9))
    def compare(drawn: list[tuple[int, int]], seed: int) -> None:
        rows = rows_of(drawn, seed)
        weights = torch.randn(sum(n for _, n in drawn), generator=torch.Generator().manual_seed(seed))
        found = []
        for model, packed in ((plain, pack(rows)), (shared, pack_groups(rows))):
            model.zero_grad()
            values = logps(model, packed)
            (values * weights).sum().backward()
            found.append((values.detach(), {n: p.grad for n, p in model.lm.named_parameters() if p.grad is not None}))
        (expected, of_padded), (values, of_shared) = found
        torch.testing.assert_close(values, expected, rtol=0, atol=exact)
        largest = max(gradient.abs().max().item() for gradient in of_padded.values())
        for parameter, gradient in of_padded.items():
            torch.testing.assert_close(of_shared[parameter], gradient, rtol=0, atol=tolerance * largest, msg=parameter)

    compare()


def shifted(groups: Sequence[Group]) -> tuple[list[Span], np.ndarray]:
    """Each answer's positions begin one too late."""
    spans, positions = place(groups)
    for answer in (answer for span in spans for answer in span.answers):
        positions[answer] += 1
    return spans, positions


def leaking(groups: Sequence[Group]) -> tuple[list[Span], np.ndarray]:
    """An answer sees the answers before it."""
    spans, positions = place(groups)
    prompts = [[np.concatenate([span.prompt, *span.answers[:k]]) for k in range(len(span.answers))] for span in spans]
    each = [zip(seen, span.answers, strict=True) for seen, span in zip(prompts, spans, strict=True)]
    return [Span(prompt, [answer]) for pairs in each for prompt, answer in pairs], positions


def without_a_boundary(groups: Sequence[Group]) -> tuple[list[Span], np.ndarray]:
    """The second prompt goes on from the first one."""
    first, second, *others = groups
    _, positions = place(groups)
    joined = Group(first.prompt + sum(first.answers) + second.prompt, second.answers)
    spans, _ = place([joined, *others])
    return [replace(spans[0], answers=[*place([first])[0][0].answers, *spans[0].answers]), *spans[1:]], positions


@pytest.mark.parametrize("fault", [shifted, leaking, without_a_boundary])
def test_a_fault_of_packing_is_noticed_at_the_start(
    fault: Callable[[Sequence[Group]], tuple[list[Span], np.ndarray]],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    model = ResponseLogps(make(CONFIGS["Llama"]), chunk=1000)
    assert share_prompts(model)
    expected = logps(model, pack_groups(CHECKED))
    monkeypatch.setattr(attention, "place", fault)
    assert (logps(model, pack_groups(CHECKED)) - expected).abs().max() > 0.01
    assert not share_prompts(ResponseLogps(make(CONFIGS["Llama"]), chunk=1000))
    assert "trains on padded rows" in capsys.readouterr().out


@pytest.mark.slow
def test_compiled_layers_find_the_same_and_are_compiled_for_few_lengths() -> None:
    plain, compiled = (ResponseLogps(make(LlamaConfig(**SIZES | {"num_hidden_layers": 1})), chunk=1000) for _ in "12")
    assert share_prompts(plain) and share_prompts(compiled)
    compile_layers(compiled.lm)
    torch._dynamo.utils.counters.clear()
    graphs = []
    for lengths in ((4, 7), (5, 8), (2, 3)):
        rows = rows_of([(0, n) for n in lengths])
        found = []
        for model, packed in ((plain, pack_groups(rows)), (compiled, pack_groups(rows, 32))):
            model.zero_grad()
            values = logps(model, packed)
            values.sum().backward()
            found.append((values.detach(), [p.grad for p in model.lm.parameters()]))
        (expected, gradients), (values, of_compiled) = found
        torch.testing.assert_close(values, expected, rtol=0, atol=1e-5)
        for gradient, one in zip(gradients, of_compiled, strict=True):
            torch.testing.assert_close(one, gradient, rtol=0, atol=1e-4)
        graphs.append(torch._dynamo.utils.counters["stats"]["unique_graphs"])
    assert graphs[0] > 0
    assert graphs == graphs[:1] * 3


@pytest.mark.slow
def test_layers_that_are_recomputed_share_prompts_too() -> None:
    rows = rows_of([(0, 4), (0, 7), (1, 2)])
    gradients = []
    for recompute in ("off", "selective", "full"):
        model = ResponseLogps(ready(make(CONFIGS["Llama"]), recompute), chunk=1000)
        assert share_prompts(model)
        logps(model, pack_groups(rows)).sum().backward()
        gradients.append([p.grad for p in model.lm.parameters()])
    for plain, *again in zip(*gradients, strict=True):
        for one in again:
            torch.testing.assert_close(one, plain)


def pairs_of(seed: int, *, soft: bool = False) -> list[Example]:
    """Pairs of three prompts with one to eight answers each; some have weight 0, and all a third answer."""
    random = np.random.default_rng(seed)
    examples = []
    for prompt, answers in enumerate(random.integers(2, 9, 3)):
        rows = rows_of([(prompt, int(n)) for n in random.integers(1, 9, answers)], seed + prompt)
        values = [-4 * random.random(len(row.tokens)).astype(np.float32) for row in rows]
        for first in range(answers):
            ids = [(first + step) % answers for step in range(3)]
            own, anchors = tuple(rows[i] for i in ids), {"reference": tuple(values[i] for i in ids)}
            preference, weight = 0.5 if soft else random.random(), float(random.choice([0.0, 0.5, 2.0]))
            examples.append(Example(tuple(f"{prompt}/{i}" for i in ids), own, anchors, preference, weight))
    return examples


@pytest.mark.slow
@pytest.mark.parametrize("name", CONFIGS)
def test_ten_steps_end_in_the_same_weights(name: str) -> None:
    training, ends = Training(optimizer=Optimizer(name="sgd", lr=0.1)), []
    for shared in (False, True):
        model = ResponseLogps(make(CONFIGS[name]), chunk=1000)
        assert not shared or share_prompts(model)
        backend, limits = TorchBackend(model, training, device="cpu"), Limits(60, shared=shared)
        for step in range(10):
            take_step(backend, DPO(), pairs_of(step), limits=limits, lr=0.1, pack=pack_groups if shared else pack)
        ends.append(list(model.lm.parameters()))
    moved = max((p - q).abs().max().item() for p, q in zip(ends[0], make(CONFIGS[name]).parameters(), strict=True))
    assert moved > 1e-3
    for plain, packed in zip(*ends, strict=True):
        torch.testing.assert_close(packed, plain, rtol=0, atol=1e-6)


@pytest.mark.slow
@pytest.mark.parametrize("name", CONFIGS)
def test_the_first_loss_of_every_undecided_pair_is_the_logarithm_of_two(name: str) -> None:
    """Its anchors are computed in other rows and other passes than the loss: a shifted position would show."""
    model = ResponseLogps(make(CONFIGS[name]), chunk=1000)
    assert share_prompts(model)
    backend, examples = TorchBackend(model, Training(), device="cpu"), pairs_of(3, soft=True)
    rows = [row for example in examples for row in example.rows]
    reading = PolicyReadout(shares=True)
    read = read_all(backend, reading, rows, backend.logps, limits=Limits(40, shared=True), numbers=1)
    anchors = iter(logps[:, 0] for logps in read)
    own = [replace(each, anchors={"reference": tuple(next(anchors) for _ in each.rows)}) for each in examples]
    loss, _ = pair_loss(backend, DPO(), own, pack=pack_groups)
    assert loss.values.tolist() == pytest.approx([np.log(2)] * len(own), abs=1e-6)


@pytest.mark.slow
def test_a_model_with_a_state_trains_on_padded_rows(capsys: pytest.CaptureFixture[str]) -> None:
    config = MambaConfig(vocab_size=64, hidden_size=16, state_size=4, num_hidden_layers=1)
    model = ResponseLogps(make(config), chunk=1000)
    assert not share_prompts(model)
    assert "note: MambaForCausalLM trains on padded rows" in capsys.readouterr().out
