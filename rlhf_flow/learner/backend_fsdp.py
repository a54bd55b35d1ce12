"""The backend of many ranks with torch only: FSDP2, which shards every parameter by its first dimension."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import cast

import torch
from torch import Tensor
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import FSDPModule, MixedPrecisionPolicy, fully_shard
from torch.distributed.tensor import DTensor

from rlhf_flow.learner import meta_init
from rlhf_flow.learner.backend import Parameter, Part
from rlhf_flow.learner.policy_model import ResponseLogps
from rlhf_flow.learner.ranks import Ranks
from rlhf_flow.learner.reward_model import RewardHeadModel
from rlhf_flow.learner.storages import OffloadedStorages
from rlhf_flow.learner.training import Training
from rlhf_flow.specs import Place


class FSDPBackend(Ranks):
    """The float32 shards are the master weights; a layer is gathered, in `precision`, while it computes."""

    def __init__(
        self, model: ResponseLogps | RewardHeadModel, training: Training, place: Place, sequence_ranks: int = 1
    ) -> None:
        super().__init__(place, sequence_ranks)
        self.lm, self.empty = model.lm, meta_init.is_empty(model.lm)
        low = training.precision == "bfloat16"
        self.reads = torch.bfloat16 if low else torch.float32
        mixed = MixedPrecisionPolicy(torch.bfloat16, reduce_dtype=torch.float32) if low else MixedPrecisionPolicy()
        mesh = init_device_mesh(self.device.type, (self.size,))
        for part in meta_init.parts(model, self.lm):
            meta_init.allocate(part, self.device, torch.float32)
            part.to(self.device)
            fully_shard(part, mesh=mesh, mp_policy=mixed, reshard_after_forward=True)
        self.module = model
        self.root = cast("FSDPModule", model)
        self.trained = [
            (name, owner)
            for name, owner in self.lm.named_parameters()
            if owner.requires_grad and isinstance(owner, DTensor)
        ]
        self.optimizer = training.optimizer.build(self.lm)
        self.clip = training.clip or 0.0
        self.offloaded = OffloadedStorages()

    def parameters(self) -> Sequence[Parameter]:
        return [self._sharded(name, owner) for name, owner in self.trained]

    def _sharded(self, name: str, owner: DTensor) -> Parameter:
        part = self._part(owner)
        return Parameter(name, tuple(owner.shape), part, part, owner, offset=0)

    def _part(self, owner: DTensor) -> Part:
        """Each rank has some of the rows, the last ones fewer or none."""
        rows, *rest = owner.shape
        start = min(self.rank * -(-rows // self.size), rows)
        return Part(owner.to_local().detach().view(-1), start * torch.Size(rest).numel(), everywhere=False)

    def frozen(self) -> Mapping[str, Part]:
        return {
            name: self._part(owner)
            for name, owner in self.lm.named_parameters()
            if self.empty and not owner.requires_grad and isinstance(owner, DTensor)
        }

    def backward(self, loss: Tensor, *, last: bool) -> None:
        # FSDP averages over ranks, but the shares of a global batch must be summed; those of a replica each have the
        # gradient of all of them. Every pass reduces its gradients: summed on each rank until the last one, they would
        # be as large as the model.
        (loss * self.replicas).backward()

    def step(self, lr: float) -> float:
        owners = [owner for _, owner in self.trained if owner.grad is not None]
        total = torch.nn.utils.get_total_norm([owner.grad for owner in owners if owner.grad is not None])
        norm = total.full_tensor() if isinstance(total, DTensor) else total
        if not norm.isfinite():
            self.optimizer.zero_grad()
            raise FloatingPointError(f"the gradient norm is {norm.item()}")
        if self.clip:
            torch.nn.utils.clip_grads_with_norm_(owners, self.clip, norm)
        for group in self.optimizer.param_groups:
            group["lr"] = lr
        self.optimizer.step()
        self.optimizer.zero_grad()
        return norm.item()

    def discard(self, loss: Tensor) -> None:
        self.root.reset_iter_state()  # of the forward pass that has no backward pass
        self.optimizer.zero_grad()

    def offload(self) -> None:
        self.offloaded.leave(self.device, self.module, self.optimizer)

    def reload(self) -> None:
        self.offloaded.come_back()

    def close(self) -> None: ...
