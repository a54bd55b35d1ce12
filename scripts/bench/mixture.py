"""Check that vLLM samples from the exact geometric mixture of two policies, and measure how fast.

    python scripts/bench/mixture.py [--only exactness | --only speed] [--model FOLDER --prompts FILE.jsonl]

Exactness: the vocabulary is so small that all answers can be listed. The script prints the total variation distance
between the relative frequencies of many answers and their probabilities under the mixture, next to the distance of an
exact sampler (the same number of multinomial draws). It also prints the largest difference between a token's log-prob
and that of the mixture of two plain float32 forward passes of transformers. Exit status 1 if either is too large.

Speed: tokens per second of a policy and of its mixture with a reference, on the same prompts, alternating (A B C ...)
and with empty prefix caches. The baseline is a common implementation of the mixture: `generate` of transformers with a
logits processor that runs the reference over the whole sequence for each token, without a cache. If other programs use
the same cores, `--clock processor` divides by processor time instead (which does not include GPU time).
"""

from __future__ import annotations

import argparse
import math
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from rlhf_flow.engine.huggingface import HuggingFace, HuggingFaceEngine
from rlhf_flow.engine.vllm.engine import VLLMEngine
from rlhf_flow.engine.vllm.spec import VLLM
from rlhf_flow.prompts.jsonl import Jsonl
from rlhf_flow.sandbox.world import locate
from rlhf_flow.specs import Model, Place
from rlhf_flow.types import Mixture, Policy, Prompt, Response, SamplingParams
from rlhf_flow.weights.fingerprint import fingerprint
from rlhf_flow.weights.source import Checkpoint, InMemoryWeights

if TYPE_CHECKING:
    from torch import Tensor
    from transformers import LlamaForCausalLM, PreTrainedModel

VOCABULARY, LENGTH, END = 8, 3, 1  # of the small model: 400 answers
CONTEXT = (0, 3, 4, 5, 3)
TOLERANCE = 1e-4  # nats, of one token's log-prob in float32
DEVIATIONS = 4.0  # standard deviations that the distance may exceed an exact sampler's mean by
SEED = 1


def forward(network: PreTrainedModel, tokens: Sequence[int]) -> np.ndarray:
    """Log-probs float32 [S, V] of the token after each position: one sequence, no cache."""
    import torch

    with torch.inference_mode():
        return network(torch.tensor([list(tokens)]), use_cache=False).logits[0].float().log_softmax(-1).numpy()


def mixed(networks: Sequence[PreTrainedModel], weight: float, tokens: Sequence[int]) -> np.ndarray:
    """Log-probs float64 [S, V] of the mixture of two networks, the second with `weight`."""
    first, second = (forward(network, tokens).astype(np.float64) for network in networks)
    product = (1 - weight) * first + weight * second
    return product - np.logaddexp.reduce(product, axis=-1, keepdims=True)


def worst_difference(
    networks: Sequence[PreTrainedModel], weight: float, answers: Sequence[tuple[Prompt, Response]]
) -> float:
    """The largest difference between log-probs of the answers and of the mixture; reads each sequence once."""
    known: dict[tuple[int, ...], np.ndarray] = {}
    worst = 0.0
    for prompt, response in answers:
        tokens = (*prompt.tokens, *response.tokens.tolist())
        if tokens not in known:
            at = np.arange(len(prompt.tokens) - 1, len(tokens) - 1)
            known[tokens] = mixed(networks, weight, tokens)[at, response.tokens]
        assert response.logps is not None
        worst = max(worst, float(np.abs(response.logps - known[tokens]).max()))
    return worst


# -- exactness --------------------------------------------------------------------------------------------------------


def small_network(seed: int) -> LlamaForCausalLM:
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.manual_seed(seed)
    return LlamaForCausalLM(
        LlamaConfig(
            vocab_size=VOCABULARY,
            hidden_size=64,
            intermediate_size=128,
            num_hidden_layers=2,
            num_attention_heads=2,
            num_key_value_heads=1,
            max_position_embeddings=64,
            initializer_range=0.2,  # peaked distributions
            bos_token_id=0,
            eos_token_id=END,
        )
    ).eval()


def save_small_tokenizer(folder: Path) -> None:
    from tokenizers import Tokenizer
    from tokenizers.models import WordLevel
    from transformers import PreTrainedTokenizerFast

    words = ["<s>", "</s>", *(f"w{number}" for number in range(2, VOCABULARY))]
    plain = Tokenizer(WordLevel({word: number for number, word in enumerate(words)}, unk_token="<s>"))
    PreTrainedTokenizerFast(tokenizer_object=plain, bos_token="<s>", eos_token="</s>").save_pretrained(folder)


def exact(networks: Sequence[PreTrainedModel], weight: float) -> dict[tuple[int, ...], float]:
    """The probability under the mixture of every answer of at most LENGTH tokens."""
    whole: dict[tuple[int, ...], float] = {}
    begun: dict[tuple[int, ...], float] = {(): 1.0}
    for _ in range(LENGTH):
        longer = {
            (*answer, token): mass * math.exp(logp)
            for answer, mass in begun.items()
            for token, logp in enumerate(mixed(networks, weight, [*CONTEXT, *answer])[-1])
        }
        whole |= {answer: mass for answer, mass in longer.items() if answer[-1] == END}
        begun = {answer: mass for answer, mass in longer.items() if answer[-1] != END}
    return whole | begun


def distance(counts: np.ndarray, probabilities: np.ndarray) -> np.ndarray:
    """Total variation [...] between relative frequencies of counts [..., A] and probabilities [A]."""
    return np.abs(counts / counts.sum(-1, keepdims=True) - probabilities).sum(-1) / 2


def exactness(samples: int, weight: float, threads: int) -> bool:
    """Print the result; return whether it is consistent with an exact sampler."""
    networks = [small_network(seed) for seed in (1, 0)]
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        networks[1].save_pretrained(folder)
        save_small_tokenizer(folder)
        state = networks[0].state_dict()
        mixture = Mixture(
            Policy("policy", 1, fingerprint(state), InMemoryWeights(state)),
            Policy("start", 0, "as opened", Checkpoint(folder)),
            weight,
        )
        engine = VLLM().open(Model(str(folder)), Place(threads=threads), mixes=True)
        due = exact(networks, weight)
        index, probabilities = {answer: row for row, answer in enumerate(due)}, np.array([*due.values()])
        counts, worst = np.zeros(len(due), np.int64), 0.0
        a_call = 10_000  # answers
        prompts = [Prompt(f"{part}", (), CONTEXT) for part in range(10)]  # a seed for each id
        for round in range(1, max(1, samples // a_call) + 1):
            draw = SamplingParams(n=a_call // len(prompts), max_tokens=LENGTH)
            drawn = engine.generate(prompts, mixture, draw, round=round, seed=SEED)
            answers = [(prompts[0], response) for group in drawn.responses for response in group]
            counts += np.bincount([index[tuple(one.tokens.tolist())] for _, one in answers], minlength=len(due))
            worst = max(worst, worst_difference(networks, weight, answers))
    number = int(counts.sum())
    simulated = distance(np.random.default_rng(0).multinomial(number, probabilities, size=1000), probabilities)
    found, mean, deviation = float(distance(counts, probabilities)), simulated.mean(), simulated.std()
    print(f"{number} answers, {len(due)} possible ones, weight {weight} on the reference")
    print(f"total variation distance: {found:.5f}; of an exact sampler {mean:.5f} (standard deviation {deviation:.5f})")
    print(f"ratio: {found / mean:.3f} (allowed {(mean + DEVIATIONS * deviation) / mean:.3f})")
    for name, share in (("the policy alone", 0.0), ("the reference alone", 1.0), ("weight + 0.02", weight + 0.02)):
        other = np.array([*exact(networks, share).values()])
        print(f"distance to {name}: {distance(counts, other):.5f}")
    print(f"largest difference of a token's log-prob: {worst:.2e} nats (allowed {TOLERANCE:g})", flush=True)
    return found <= mean + DEVIATIONS * deviation and worst <= TOLERANCE


# -- speed ------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Blending:
    """A logits processor that runs the reference over prompt and answer again for each token."""

    reference: PreTrainedModel
    mask: Tensor  # [R, S] of the prompts, padded on the left
    weight: float

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        import torch

        grown = input_ids.shape[1] - self.mask.shape[1]
        mask = torch.cat([self.mask, self.mask.new_ones(len(self.mask), grown)], dim=-1)
        positions = (mask.cumsum(-1) - 1).clamp(min=0)
        logits = self.reference(
            input_ids=input_ids, attention_mask=mask, position_ids=positions, use_cache=False, logits_to_keep=1
        ).logits[:, -1]
        return (1 - self.weight) * scores.log_softmax(-1) + self.weight * logits.float().log_softmax(-1)


def baseline(
    networks: Sequence[PreTrainedModel], weight: float, prompts: Sequence[Prompt], draw: SamplingParams
) -> int:
    """The number of tokens that `generate` samples, with a KV cache for the policy."""
    import torch
    from transformers import LogitsProcessorList

    policy, reference = networks
    end = policy.config.eos_token_id
    longest = max(len(prompt.tokens) for prompt in prompts)
    rows = [prompt for prompt in prompts for _ in range(draw.n)]
    ids = torch.tensor([[0] * (longest - len(prompt.tokens)) + list(prompt.tokens) for prompt in rows])
    mask = torch.tensor([[0] * (longest - len(prompt.tokens)) + [1] * len(prompt.tokens) for prompt in rows])
    made = policy.generate(  # type: ignore[operator]  # its stubs make it a tensor
        ids,
        attention_mask=mask,
        do_sample=True,
        temperature=1.0,
        top_k=0,
        top_p=1.0,
        max_new_tokens=draw.max_tokens,
        pad_token_id=end,
        logits_processor=LogitsProcessorList([Blending(reference, mask, weight)]),
    )[:, longest:]
    return int(((made == end).cumsum(-1) - (made == end).long() == 0).sum())  # up to and including the first end token


def drawing(
    engine: VLLMEngine | HuggingFaceEngine, prompts: Sequence[Prompt], asked: Policy | Mixture, draw: SamplingParams
) -> int:
    drawn = engine.generate(prompts, asked, draw, round=1, seed=SEED)
    return sum(len(response.tokens) for group in drawn.responses for response in group)


def nudged(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Slightly changed weights, like those of a policy after some rounds."""
    import torch

    torch.manual_seed(SEED)
    return {name: tensor + 0.05 * tensor.std() * torch.randn_like(tensor) for name, tensor in state.items()}


def speed(options: argparse.Namespace) -> bool:
    """Print the speeds; return whether the log-probs of the mixture are right."""
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(options.model)
    prompts = Jsonl(path=str(options.prompts), batch=options.batch).open(tokenizer, SEED).batch(1)
    draw = SamplingParams(n=options.n, max_tokens=options.max_tokens)
    model, place = Model(str(options.model), dtype=options.dtype), Place(threads=options.threads)
    checkpoint = Checkpoint(options.model)
    state = nudged(checkpoint.load())
    policy, start = (
        Policy("policy", 1, fingerprint(state), InMemoryWeights(state)),
        Policy("start", 0, "as opened", checkpoint),
    )
    mixture = Mixture(policy, start, options.weight)
    plain, mixing = VLLM().open(model, place), VLLM().open(model, place, mixes=True)
    slow = HuggingFace(batch=len(prompts) * draw.n).open(model, place, mixes=True)
    dtype = {"float32": torch.float32, "bfloat16": torch.bfloat16}[options.dtype]
    networks = [AutoModelForCausalLM.from_pretrained(options.model, dtype=dtype).eval() for _ in range(2)]
    networks[0].load_state_dict(state)

    kinds: dict[str, Callable[[], int]] = {
        "vLLM, policy": lambda: drawing(plain, prompts, policy, draw),
        "vLLM, policy, with mixtures enabled": lambda: drawing(mixing, prompts, policy, draw),
        "vLLM, mixture": lambda: drawing(mixing, prompts, mixture, draw),
        "engine=huggingface, mixture": lambda: drawing(slow, prompts, mixture, draw),
        "generate() with a logits processor": lambda: baseline(networks, options.weight, prompts, draw),
    }
    for call in kinds.values():
        call()  # warm-up, which also loads the weights
    speeds: dict[str, list[float]] = {name: [] for name in kinds}
    clock = {"wall": time.perf_counter, "processor": time.process_time}[options.clock]
    for _ in range(options.repeats):
        for name, call in kinds.items():
            assert plain.llm.reset_prefix_cache() and mixing.llm.reset_prefix_cache()
            begun = clock()
            tokens = call()
            speeds[name].append(tokens / (clock() - begun))

    print(f"{len(prompts)} prompts x {draw.n} answers of at most {draw.max_tokens} tokens, {options.repeats} repeats")
    print(f"{options.dtype}, {options.threads} threads, {options.clock} time")
    for name, found in speeds.items():
        print(f"{name:>40}: {statistics.median(found):8.0f} tokens/s (from {min(found):.0f} to {max(found):.0f})")
    for over, under in ((2, 0), (1, 0), (2, 3), (2, 4), (3, 4)):
        upper, lower = [*speeds][over], [*speeds][under]
        paired = [left / right for left, right in zip(speeds[upper], speeds[lower], strict=True)]
        print(f"({upper}) / ({lower}): {statistics.median(paired):.2f} (from {min(paired):.2f} to {max(paired):.2f})")
    if options.dtype != "float32":
        return True
    drawn = mixing.generate(prompts[:8], mixture, draw, round=2, seed=SEED)
    answers = [
        (prompt, response) for prompt, group in zip(drawn.prompts, drawn.responses, strict=True) for response in group
    ]
    worst = worst_difference(networks, options.weight, answers)
    print(f"largest difference of a token's log-prob, {len(answers)} answers: {worst:.2e} nats (allowed {TOLERANCE:g})")
    return worst <= TOLERANCE


def main() -> None:
    world = locate()
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", choices=("exactness", "speed"), help="run only this part (default: both)")
    parser.add_argument("--weight", type=float, default=0.25, help="weight of the reference (default: %(default)s)")
    parser.add_argument("--threads", type=int, default=1, help="threads of each engine (default: %(default)s)")
    parser.add_argument("--samples", type=int, default=200_000, help="answers for exactness (default: %(default)s)")
    parser.add_argument("--model", type=Path, default=world.policy, help="checkpoint (default: the sandbox world's)")
    parser.add_argument("--prompts", type=Path, default=world.prompts, help="JSONL with a column `prompt`")
    parser.add_argument("--batch", type=int, default=64, help="prompts per call (default: %(default)s)")
    parser.add_argument("--n", type=int, default=4, help="answers per prompt (default: %(default)s)")
    parser.add_argument("--max-tokens", type=int, default=64, help="limit per answer (default: %(default)s)")
    parser.add_argument("--dtype", default="float32", help="float32 or bfloat16 (default: %(default)s)")
    parser.add_argument("--repeats", type=int, default=5, help="timings of each (default: %(default)s)")
    parser.add_argument("--clock", choices=("wall", "processor"), default="wall", help="default: %(default)s")
    options = parser.parse_args()
    if options.only != "exactness" and not options.model.is_dir():
        parser.error(f"no checkpoint at {options.model}; `python -m rlhf_flow.sandbox` builds the sandbox world")
    right = []
    if options.only != "speed":
        right.append(exactness(options.samples, options.weight, options.threads))
    if options.only != "exactness":
        right.append(speed(options))
    if not all(right):
        sys.exit("the samples are not from the mixture")


if __name__ == "__main__":
    main()
