"""How DeepSpeed's ZeRO settings in `learner.config` move memory from the GPU to the host.

Letters as in `rlhf_flow.capacity.learner_memory`. With `offload_optimizer` (Ren et al. 2021, arXiv:2101.06840) master
weights, moments, gradients and the optimizer's step are on the host. The host holds the gradients more than once: those
that micro-batches accumulate into, and those that the optimizer reads, 4 T/N bytes each; stages 1 and 2 accumulate in
w T/N, and have a buffer of another w T/N for the new weights. With `offload_param`, in stage 3 only, the weights are on
the host too, and a pass gathers them layer by layer.

torch rounds pinned host memory up to a power of two; `process_memory.MARGIN` has to cover it.
"""

from __future__ import annotations

from dataclasses import dataclass

from rlhf_flow.config.schema import RunConfig
from rlhf_flow.learner.deepspeed import DeepSpeed
from rlhf_flow.learner.deepspeed_config import engine_config

OF_OPTIMIZER = frozenset({"master weights", "moments", "gradients", "optimizer's step"})  # names of items in phases
OF_WEIGHTS = frozenset({"weights", "weights set aside"})


@dataclass(frozen=True)
class Zero:
    """The ZeRO settings that affect memory, in elements, with DeepSpeed's defaults."""

    bucket: int = 5 * 10**8  # reduce_bucket_size, of gradients
    overlap: bool = False  # overlap_comm, which takes a second bucket
    live: int = 10**9  # stage3_max_live_parameters: weights that stay gathered
    optimizer: bool = False  # whether the optimizer is on the host
    weights: bool = False  # whether the weights are on the host

    @property
    def on_host(self) -> frozenset[str]:
        """The items that are on the host of a rank whose device is a GPU."""
        return (OF_OPTIMIZER if self.optimizer else frozenset()) | (OF_WEIGHTS if self.weights else frozenset())


def zero(config: RunConfig, *, on_gpu: bool) -> Zero:
    """The settings of a run. Raises ValueError if learner.config cannot be read."""
    learner = config.learner
    if not isinstance(learner, DeepSpeed):
        return Zero()
    stage, device = learner.zero_stage, "cuda" if on_gpu else "cpu"
    engine = engine_config(
        learner.training.on(device), ranks=learner.ranks, zero_stage=stage, path=learner.config, device=device
    )
    settings = engine["zero_optimization"]
    assert isinstance(settings, dict)
    return Zero(
        bucket=int(settings.get("reduce_bucket_size", Zero.bucket)),
        overlap=bool(settings.get("overlap_comm", Zero.overlap)),
        live=int(settings.get("stage3_max_live_parameters", Zero.live)),
        optimizer=stage > 0 and _on_cpu(settings.get("offload_optimizer")),
        weights=stage == 3 and _on_cpu(settings.get("offload_param")),
    )


def _on_cpu(offload: object) -> bool:
    return isinstance(offload, dict) and offload.get("device", "none") == "cpu"
