"""The vLLM engine: `protocols.Engine` on a `vllm.LLM`."""

from __future__ import annotations

import gc
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, NamedTuple, Protocol, TypeVar

import numpy as np

from rlhf_flow.engine.feed import Take
from rlhf_flow.engine.loaded_policy import LoadedPolicy
from rlhf_flow.engine.mixture import POLICY, PolicySlots
from rlhf_flow.engine.requests import answered, check, continued, first_seed
from rlhf_flow.engine.vllm.adapters import Adapters
from rlhf_flow.engine.vllm.sampling import flat, sample, sampling
from rlhf_flow.engine.vllm.weights import Weights
from rlhf_flow.specs import Model
from rlhf_flow.tokenization.end_tokens import end_tokens
from rlhf_flow.types import Mixture, Policy, Prompt, Rollouts, SamplingParams
from rlhf_flow.weights.broadcast import Channel
from rlhf_flow.weights.layout import Layout
from rlhf_flow.weights.source import Adapter

if TYPE_CHECKING:
    import vllm
    from torch import Tensor
    from transformers import PreTrainedTokenizerBase

    from rlhf_flow.engine.vllm.spec import VLLM


T = TypeVar("T")


class Request(NamedTuple):
    tokens: Sequence[int]
    params: vllm.SamplingParams


class MoreRequests(Protocol):
    def __call__(self, *, wait: bool) -> Sequence[Request] | None:
        """Further requests, maybe none yet; None: no more will come. `wait`: until there are some."""
        ...


class VLLMEngine:
    """`llm` is the live `vllm.LLM`."""

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
        self._weights = Weights(llm, mixes=mixes, ranks=spec.tensor_parallel)
        self._adapters = Adapters(llm, rank=spec.lora_rank)
        self._slots = PolicySlots(
            [
                LoadedPolicy(
                    model,
                    shapes,
                    max_model_len=self._max_model_len,
                    tolerance=spec.probe_tolerance,
                    checksum=self._weights.checksum,
                )
                for _ in range(2 if mixes else 1)
            ],
            load=self._load,
            measure=lambda slot, tokens, first: self._measure(slot, [(tokens, first)])[0],
            # vLLM cannot adapt `TwoModels`, so mixtures get adapters as whole weights.
            set_adapter=self._set_adapter if spec.lora_rank and not mixes else None,
        )
        self._failed = ""  # what vLLM was doing when it failed

    def generate(
        self, prompts: Sequence[Prompt], policy: Policy | Mixture, draw: SamplingParams, *, round: int, seed: int
    ) -> Rollouts:
        """Sample `draw.n` answers per prompt from `policy`.

        Raises ValueError if a prompt and `draw.max_tokens` do not fit, or if the engine was not opened for mixtures;
        and RuntimeError if vLLM failed in an earlier call, because it does not recover.
        """
        return Rollouts.gathered(prompts, self.stream(prompts, policy, draw, round=round, seed=seed), round)

    def stream(
        self, prompts: Sequence[Prompt], policy: Policy | Mixture, draw: SamplingParams, *, round: int, seed: int
    ) -> Iterator[Rollouts]:
        """As `generate`, in pieces: the prompts that a step of vLLM finished. A slot is refilled at the next step."""
        check(prompts, draw, self._max_model_len)  # before anything is loaded
        yield from self.feed(_once(prompts), policy, draw, round=round, seed=seed)

    @property
    def slots(self) -> int:
        slots: int = self.llm.llm_engine.vllm_config.scheduler_config.max_num_seqs
        return slots

    def feed(
        self, take: Take, policy: Policy | Mixture, draw: SamplingParams, *, round: int, seed: int
    ) -> Iterator[Rollouts]:
        """As `stream`, of the prompts that `take` returns, which are added between the steps of vLLM."""
        asked: list[Prompt] = []

        def requests(*, wait: bool) -> list[Request] | None:
            prompts = take(wait=wait)
            if prompts is None:
                return None
            check(prompts, draw, self._max_model_len)
            asked.extend(prompts)
            first = (first_seed(seed, round, prompt, draw) for prompt in prompts)
            return [
                Request(prompt.context, sampling(draw, seed=own, ends=self._ends))
                for prompt, own in zip(prompts, first, strict=True)
            ]

        self._mix(self._hold(policy))
        for finished in self._run("generating", requests):
            samples = [[sample(one) for one in output.outputs] for output in finished.values()]
            prompts = [asked[number] for number in finished]
            yield answered(prompts, samples, policy, draw, self._tokenizer, round=round, seed=seed)

    def logps(self, rollouts: Rollouts, policy: Policy | Mixture) -> list[np.ndarray]:
        """float32 [T] per response, prompt by prompt, under `policy` at T=1. Each must leave one position free."""
        weight = self._hold(policy)
        pairs = [
            (continued(prompt, response), response.tokens.tolist())
            for prompt, group in zip(rollouts.prompts, rollouts.responses, strict=True)
            for response in group
        ]
        return self._measure(weight, [([*context, *answer], len(context)) for context, answer in pairs])

    def receive(self, channel: Channel) -> None:
        """Replace the policy's weights by those that the channel's sender broadcasts; `received` tells whose they are.

        `channel`: of this engine's first tensor-parallel rank.
        """
        with self._slots.receiving(), self._vital("receiving weights"):
            self._adapters.set(None)
            self._weights.receive(POLICY, channel)

    def received(self, sha256: str, round: int) -> None:
        """The policy whose weights `receive` took. Its probe is checked before its first use."""
        self._slots.received(sha256, round)

    def step_aside(self) -> None:
        """On a GPU vLLM sleeps: weights go to the host, the KV cache is dropped (not measured). A CPU does nothing."""
        self._sleep(level=1)

    def discard(self) -> None:
        """As `step_aside`, without a copy of the weights on the host: they will be loaded again."""
        if self._sleep(level=2):
            self._slots.forget()

    def _sleep(self, *, level: int) -> bool:
        """Whether it fell asleep."""
        if not self.llm.model_config.enable_sleep_mode or self.llm.llm_engine.is_sleeping():
            return False
        with self._vital("falling asleep"):
            self.llm.sleep(level=level)
        return True

    def come_back(self) -> None:
        if self.llm.llm_engine.is_sleeping():
            with self._vital("waking up"):
                self.llm.wake_up()

    def close(self) -> None:
        self.llm.llm_engine.engine_core.shutdown()
        self._adapters.delete_files()
        del self.llm, self._weights, self._adapters
        gc.collect()

    def _hold(self, policy: Policy | Mixture) -> float:
        from vllm.config import set_current_vllm_config

        # Reading a checkpoint builds a transformers model. vLLM patches some of those classes (GPT-NeoX, OLMo 2,
        # SmolLM3), which then ask for vLLM's configuration.
        with set_current_vllm_config(self.llm.llm_engine.vllm_config):
            return self._slots.hold(policy)

    def _load(self, slot: int, tensors: Iterator[tuple[str, Tensor]]) -> None:
        with self._vital("loading weights"):
            self._adapters.set(None)
            self._weights.load(slot, self._layout.convert(tensors))  # vLLM wants the names of checkpoints

    def _set_adapter(self, slot: int, adapter: Adapter | None) -> None:
        if adapter is not None:
            self._adapters.check(adapter)
        with self._vital("loading an adapter"):
            self._adapters.set(adapter)

    def _mix(self, weight: float) -> None:
        with self._vital("changing the mixture"):
            self._weights.mix(weight)

    def _measure(self, weight: float, sequences: Sequence[tuple[Sequence[int], int]]) -> list[np.ndarray]:
        """float32 log-probs of tokens[first:] for each (tokens, first)."""
        import vllm

        self._mix(weight)
        params = vllm.SamplingParams(
            temperature=0, max_tokens=1, prompt_logprobs=0, flat_logprobs=True, detokenize=False
        )
        outputs: dict[int, vllm.RequestOutput] = {}
        for finished in self._run("measuring log-probs", _once([Request(tokens, params) for tokens, _ in sequences])):
            outputs |= finished
        return [
            flat(outputs[at].prompt_logprobs)[first - 1 :]  # the first token has no log-prob
            for at, (_, first) in enumerate(sequences)
        ]

    def _run(self, what: str, more: MoreRequests) -> Iterator[dict[int, vllm.RequestOutput]]:
        """Yield the outputs that each step of vLLM finished, by the number of the request. Adds requests in between."""
        from vllm.exceptions import VLLMClientError

        core, numbers, refused = self.llm.llm_engine, dict[str, int](), None
        with self._vital(what):
            adds = True
            try:
                while adds or core.has_unfinished_requests():
                    if adds:
                        try:
                            requests = more(wait=not core.has_unfinished_requests())
                            adds = requests is not None
                            for id in self._enqueue(requests or ()):
                                numbers[id.partition("-")[0]] = len(numbers)
                        except (VLLMClientError, ValueError) as error:  # vLLM goes on with the others
                            adds, refused = False, error
                    if finished := {numbers[one.request_id]: one for one in core.step() if one.finished}:
                        yield finished
            except GeneratorExit:  # the caller wants no more
                core.abort_request(list(numbers), internal=False)
        if isinstance(refused, VLLMClientError):
            raise ValueError(f"vLLM refuses the request: {refused}") from refused
        if refused is not None:
            raise refused

    def _enqueue(self, requests: Sequence[Request]) -> list[str]:
        from vllm.inputs import TokensPrompt

        if not requests:
            return []
        return self.llm.enqueue(
            [TokensPrompt(prompt_token_ids=list(request.tokens)) for request in requests],
            [request.params for request in requests],
            use_tqdm=False,
            lora_request=self._adapters.request,
        )

    @contextmanager
    def _vital(self, what: str) -> Iterator[None]:
        """After a failure inside vLLM requests stay queued and the next call would hang, so that call is refused."""
        if self._failed:
            raise RuntimeError(f"this vLLM engine failed while {self._failed} and does not recover; open another one")
        self._failed = what
        yield
        self._failed = ""


def _once(items: Sequence[T]) -> Callable[..., Sequence[T] | None]:
    """A `Take` that returns all items at once."""
    left = [items]

    def take(*, wait: bool) -> Sequence[T] | None:
        return left.pop() if left else None

    return take
