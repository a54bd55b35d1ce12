"""What the JSON of learner.config makes of ZeRO's memory: which of it is on the host instead of the GPU.

Letters as in `rlhf_flow.capacity.learner_memory`. With `offload_optimizer` (Ren et al. 2021, arXiv:2101.06840) masters,
moments, gradients and the optimizer's step leave the GPU. The host has gradients more than once: those that
micro-batches add up to, and those that the optimizer reads, 4 T/N of each; stages 1 and 2 add them up in w T/N, and
have a buffer of another w T/N for the new weights. With `offload_param`, of stage 3 alone, the weights leave it too,
and a pass gathers them as it goes.

Memory that a GPU reads without the processor's help is pinned, which torch rounds up to a power of two and never gives
back: the weights are, and the gradients under `pin_memory` of offload_optimizer. Under `pin_memory` of offload_param
each parameter was pinned once more before they were put together. Both are true where the JSON does not say.
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
    """Of ZeRO's settings those that move memory, in elements; DeepSpeed's defaults where the JSON does not say."""

    bucket: int = 5 * 10**8  # of gradients on their way
    overlap: bool = False  # and a second bucket meanwhile
    live: int = 10**9  # weights that stage 3 keeps gathered
    group: int = 10**9  # weights that stage 3 steps at once
    optimizer: bool = False  # on the host
    weights: bool = False  # on the host
    pins_gradients: bool = False
    pins_each: bool = False  # parameter, before all of them

    @property
    def away(self) -> frozenset[str]:
        """The items that are on the host of a rank whose device is a GPU."""
        return (OF_OPTIMIZER if self.optimizer else frozenset()) | (OF_WEIGHTS if self.weights else frozenset())

    def rounding(self, share: float, element: int) -> float:
        """Bytes that pinned memory takes over what is in it. `share`: a rank's weights, `element` bytes each."""
        extra = 0.0
        if self.weights:
            extra += rounded(element * share) - element * share + (element * share if self.pins_each else 0)
        if self.pins_gradients:
            groups, rest = divmod(share, self.group)
            read = groups * rounded(4 * self.group) + rounded(4 * rest)
            extra += rounded(4 * share) + read - 8 * share
        return extra


def zero(config: RunConfig, *, on_gpu: bool) -> Zero:
    """As DeepSpeed will be told. Raises ValueError where learner.config cannot be read."""
    learner = config.learner
    if not isinstance(learner, DeepSpeed):
        return Zero()
    stage, device = learner.zero_stage, "cuda" if on_gpu else "cpu"
    told = engine_config(learner.training, ranks=learner.ranks, zero_stage=stage, path=learner.config, device=device)
    said = told["zero_optimization"]
    assert isinstance(said, dict)
    optimizer, weights = (_offload(said.get(key)) for key in ("offload_optimizer", "offload_param"))
    moved = optimizer is not None and stage > 0, weights is not None and stage == 3
    return Zero(
        bucket=int(said.get("reduce_bucket_size", Zero.bucket)),
        overlap=bool(said.get("overlap_comm", Zero.overlap)),
        live=int(said.get("stage3_max_live_parameters", Zero.live)),
        group=int(said.get("sub_group_size", Zero.group)),
        optimizer=moved[0],
        weights=moved[1],
        pins_gradients=moved[0] and stage == 3 and bool((optimizer or {}).get("pin_memory", True)),
        pins_each=moved[1] and bool((weights or {}).get("pin_memory", True)),
    )


def rounded(bytes: float) -> float:
    """To the next power of two."""
    return float(1 << (int(bytes) - 1).bit_length()) if bytes >= 1 else 0.0


def _offload(said: object) -> dict[str, object] | None:
    return said if isinstance(said, dict) and said.get("device", "none") == "cpu" else None
