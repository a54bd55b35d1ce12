"""The backend of many ranks: a DeepSpeed engine, and where its ZeRO stages keep each parameter."""

from __future__ import annotations

import logging
import os
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from rlhf_flow.learner import meta_init
from rlhf_flow.learner.backend import Parameter, Part
from rlhf_flow.learner.deepspeed_config import Json
from rlhf_flow.learner.optimizer import matrices
from rlhf_flow.learner.policy_model import ResponseLogps
from rlhf_flow.learner.ranks import Ranks, backend_of, join
from rlhf_flow.learner.reward_model import RewardHeadModel
from rlhf_flow.learner.storages import OffloadedStorages
from rlhf_flow.learner.training import Training
from rlhf_flow.specs import Place

ZeroParameter = Any  # a torch parameter with attributes added by DeepSpeed


def settle(place: Place) -> None:
    """Join the ranks' process group, and tell DeepSpeed so."""
    index = torch.device(place.device).index or 0
    os.environ |= {"LOCAL_RANK": str(index), "RANK": str(place.rank), "WORLD_SIZE": str(place.size)}
    if place.device == "cpu":
        os.environ["DS_ACCELERATOR"] = "cpu"
    import deepspeed

    deepspeed.utils.logger.setLevel(logging.ERROR)
    join(place)
    # Its shared-memory kernel is compiled on first use, sums in another order, and is no faster here.
    deepspeed.ops.__compatible_ops__["deepspeed_shm_comm"] = False
    deepspeed.init_distributed(dist_backend=backend_of(place), auto_mpi_discovery=False, verbose=False)


class DeepSpeedBackend(Ranks):
    def __init__(
        self,
        model: ResponseLogps | RewardHeadModel,
        training: Training,
        config: Json,
        place: Place,
        sequence_ranks: int = 1,
    ) -> None:
        import deepspeed

        super().__init__(place, sequence_ranks)
        self.lm, decayed = model.lm, matrices(model.lm)
        self.reads = torch.bfloat16 if "bf16" in config else torch.float32
        self.empty = meta_init.is_empty(self.lm)
        if self.empty:
            self._make_sharded(model, config)
        self.trained = [(name, owner) for name, owner in self.lm.named_parameters() if owner.requires_grad]
        self.optimizer = training.optimizer.build(self.lm, decayed)
        self.engine, *_ = deepspeed.initialize(
            model=model, optimizer=self.optimizer, config=config, dist_init_required=False
        )
        self.module = self.engine
        self.stage = self.engine.zero_optimization_stage()
        self.clip = training.clip or 0.0
        self.offloaded = OffloadedStorages()

    def _make_sharded(self, model: nn.Module, config: Json) -> None:
        """Give one layer after another memory, and partition it (stage 3)."""
        import deepspeed

        for part in meta_init.parts(model, self.lm):
            meta_init.allocate(part, self.device, self.reads)
            deepspeed.zero.Init(module=part, config_dict_or_path=config, dtype=self.reads)

    def parameters(self) -> Sequence[Parameter]:
        if self.stage == 0:
            return [self._replicated(name, parameter) for name, parameter in self.trained]
        if self.stage == 3:
            self.engine.optimizer._partition_all_parameters()  # release gathered parameters
            return [self._sharded(name, parameter) for name, parameter in self.trained]
        return [self._flattened(name, parameter) for name, parameter in self.trained]

    def frozen(self) -> Mapping[str, Part]:
        if not self.empty:
            return {}
        self.engine.optimizer._partition_all_parameters()
        return {
            name: self._slice(parameter)
            for name, parameter in self.lm.named_parameters()
            if not parameter.requires_grad
        }

    def _replicated(self, name: str, owner: Tensor) -> Parameter:
        """Stage 0: every rank updates all parameters of the model."""
        part = Part(owner.detach().view(-1), start=0, everywhere=True)
        return Parameter(name, tuple(owner.shape), part, part, owner, offset=0)

    def _flattened(self, name: str, parameter: ZeroParameter) -> Parameter:
        """Stages 1 and 2: each rank updates one range of the concatenated parameters, which may split this one."""
        seen = Part(parameter.detach().view(-1), start=0, everywhere=True)
        for group, flat in zip(*self._groups(), strict=True):
            if any(member is parameter for member in group):
                owner = flat
        offset, start, count = 0, 0, 0
        if parameter._hp_mapping is not None:
            there, here = parameter._hp_mapping.hp_fragment_address, parameter._hp_mapping.lp_fragment_address
            offset, start, count = there.start, here.start, there.numel
        master = Part(owner.detach().narrow(0, offset, count), start, everywhere=False)
        return Parameter(name, tuple(parameter.shape), seen, master, owner, offset)

    def _groups(self) -> tuple[Sequence[Sequence[Tensor]], Sequence[Tensor]]:
        from deepspeed.runtime.bf16_optimizer import BF16_Optimizer

        optimizer = self.engine.optimizer
        if isinstance(optimizer, BF16_Optimizer):  # stage 1 with float32 gradients
            return optimizer.bf16_groups, optimizer.fp32_groups_flat_partition
        return optimizer.bit16_groups, optimizer.single_partition_of_fp32_groups

    def _sharded(self, name: str, parameter: ZeroParameter) -> Parameter:
        """Stage 3: each rank has one slice of every parameter; the last slice may be padded."""
        optimizer = self.engine.optimizer
        group, offset, slice_size = optimizer.grad_position[optimizer.get_param_id(parameter)]
        start = min(self.rank * slice_size, parameter.ds_numel)
        count = min(slice_size, parameter.ds_numel - start)
        owner = optimizer.fp32_partitioned_groups_flat[group]
        master = Part(owner.detach().narrow(0, offset, count), start, everywhere=False)
        return Parameter(name, tuple(parameter.ds_shape), self._slice(parameter), master, owner, offset)

    def _slice(self, parameter: ZeroParameter) -> Part:
        values = parameter.ds_tensor.detach().view(-1)
        start = min(self.rank * len(values), parameter.ds_numel)
        return Part(values.narrow(0, 0, min(len(values), parameter.ds_numel - start)), start, everywhere=False)

    def backward(self, loss: Tensor, *, last: bool) -> None:
        self.engine.set_gradient_accumulation_boundary(last)
        # DeepSpeed averages over ranks, but the shares of a global batch must be summed; the ranks of a replica each
        # have the gradient of all of them.
        self.engine.backward(loss * self.replicas, scale_wrt_gas=False)

    def step(self, lr: float) -> float:
        for group in self.optimizer.param_groups:
            group["lr"] = lr
        norm = self._clipped_norm() if self.stage == 0 else None
        if norm is None or norm.isfinite():
            self.engine.step()
            if self.engine.was_step_applied():
                return float(norm if norm is not None else self.engine.get_global_grad_norm())
        self.engine.zero_grad()
        raise FloatingPointError("the gradient norm is not finite")

    def _clipped_norm(self) -> Tensor:
        """Stage 0 leaves the gradients of the whole model on every rank and does not clip them."""
        parameters = list(self.engine.module.parameters())
        norm = torch.nn.utils.get_total_norm([p.grad for p in parameters if p.grad is not None])
        if self.clip:
            torch.nn.utils.clip_grads_with_norm_(parameters, self.clip, norm)
        return norm

    def discard(self, loss: Tensor) -> None:
        if self.stage == 0:
            self.engine.zero_grad()
            return
        # ZeRO drops gradients that it has begun to reduce only in a step that it skips: one with a non-finite norm.
        self.backward(loss * torch.nan, last=True)
        self.engine.step()
        assert not self.engine.was_step_applied(), "DeepSpeed took a step with gradients of NaN"

    def offload(self) -> None:
        # DeepSpeed 0.19.8 would offload less: nothing in stage 0, no moments of a torch AdamW in stage 3.
        self.offloaded.leave(self.device, self.engine.module, self.optimizer, self.engine.optimizer)

    def reload(self) -> None:
        self.offloaded.come_back()

    def close(self) -> None:
        self.engine.destroy()
