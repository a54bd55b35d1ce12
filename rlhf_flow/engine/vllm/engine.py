"""A vLLM that is up: what the loop asks of it, in its words."""

from __future__ import annotations

import gc
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from typing import TYPE_CHECKING

import numpy as np

from rlhf_flow.engine.loaded_policy import LoadedPolicy
from rlhf_flow.engine.mixture import PolicySlots
from rlhf_flow.engine.requests import Sample, answered, check, first_seed
from rlhf_flow.engine.vllm.adapters import Adapters
from rlhf_flow.engine.vllm.request import sampling
from rlhf_flow.engine.vllm.weights import Weights
from rlhf_flow.specs import Model
from rlhf_flow.tokenization.end_tokens import end_tokens
from rlhf_flow.types import Mixture, Policy, Prompt, Rollouts, SamplingParams
from rlhf_flow.weights.layout import Layout
from rlhf_flow.weights.source import Adapter

if TYPE_CHECKING:
    import vllm
    from torch import Tensor
    from transformers import PreTrainedTokenizerBase

    from rlhf_flow.engine.vllm.spec import VLLM


class VLLMEngine:
    """A live `vllm.LLM`, which is `llm`."""

    def __init__(
        self,
        spec: VLLM,
        model: Model,
        llm: vllm.LLM,
        tokenizer: PreTrainedTokenizerBase,
        shapes: Mapping[str, tuple[int, ...]],
        layout: Layout,
        *,
        mixes: bool,
    ) -> None:
        self.llm = llm
        self._tokenizer = tokenizer
        self._ends = end_tokens(model.path, tokenizer, revision=model.revision)
        self._max_model_len = llm.model_config.max_model_len
        self._layout = layout
        self._weights = Weights(llm, mixes=mixes, processes=spec.tensor_parallel > 1)
        self._adapters = Adapters(llm, rank=spec.lora_rank)
        self._slots = PolicySlots(
            [
                LoadedPolicy(model, shapes, max_model_len=self._max_model_len, tolerance=spec.probe_tolerance)
                for _ in range(2 if mixes else 1)
            ],
            put=self._put,
            measure=lambda slot, tokens, first: self._measure(slot, [(tokens, first)])[0],
            lay=self._lay if spec.lora_rank and not mixes else None,  # two networks look like none that vLLM adapts
        )
        self._lost = ""  # what vLLM was doing when it failed

    def generate(
        self, prompts: Sequence[Prompt], policy: Policy | Mixture, draw: SamplingParams, *, round: int, seed: int
    ) -> Rollouts:
        """Draw `draw.n` answers per prompt from exactly `policy`.

        Raises ValueError where a prompt and `draw.max_tokens` do not fit, for a greedy draw that asks for copies, and
        for a mixture that the engine was not opened for; and RuntimeError where vLLM failed earlier, for it does not
        recover.
        """
        check(prompts, draw, self._max_model_len)
        self._mix(self._hold(policy))
        params = [sampling(draw, seed=first_seed(seed, round, prompt, draw), ends=self._ends) for prompt in prompts]
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
        weight = self._hold(policy)
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
        with self._configured():
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

    def _hold(self, policy: Policy | Mixture) -> float:
        with self._configured():
            return self._slots.hold(policy)

    def _configured(self) -> AbstractContextManager[None]:
        """For blocks that read checkpoints, which build a model of transformers to know its names.

        vLLM serves some architectures by classes of transformers (GPT-NeoX, OLMo 2, SmolLM3), which it changes: in its
        process they ask for its configuration when they are built.
        """
        from vllm.config import set_current_vllm_config

        return set_current_vllm_config(self.llm.llm_engine.vllm_config)

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
        import vllm

        self._mix(weight)
        params = vllm.SamplingParams(
            temperature=0, max_tokens=1, prompt_logprobs=0, flat_logprobs=True, detokenize=False
        )
        outputs = self._run("measuring log-probs", [tokens for tokens, _ in sequences], [params] * len(sequences))
        return [
            _flat(output.prompt_logprobs)[first - 1 :]  # the first token has none
            for (_, first), output in zip(sequences, outputs, strict=True)
        ]

    def _run(
        self, what: str, prompts: Sequence[Sequence[int]], params: Sequence[vllm.SamplingParams]
    ) -> list[vllm.RequestOutput]:
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
