"""The backend of many ranks: a DeepSpeed engine, and where its ZeRO stages keep each parameter."""

from __future__ import annotations

import logging
import os
import warnings
from collections.abc import Mapping, Sequence
from functools import cached_property
from typing import Any

import torch
from torch import Tensor
from torch import distributed as dist
from torch.distributed.constants import default_pg_timeout

from rlhf_flow.learner.backend import K, Parameter, Part, V
from rlhf_flow.learner.batching import Packed
from rlhf_flow.learner.deepspeed_config import Json
from rlhf_flow.learner.logits import Reader, spread
from rlhf_flow.learner.policy_model import ResponseLogps
from rlhf_flow.learner.reward_model import RewardHeadModel
from rlhf_flow.learner.storages import OffloadedStorages
from rlhf_flow.learner.training import Training
from rlhf_flow.specs import Place
from rlhf_flow.system.rendezvous import store

ZeroParameter = Any  # a torch parameter with attributes added by DeepSpeed


def join(place: Place) -> None:
    """Join the process group: gloo on CPUs, NCCL on GPUs. Uses the default group if there is one."""
    index = torch.device(place.device).index or 0
    os.environ |= {"LOCAL_RANK": str(index), "RANK": str(place.rank), "WORLD_SIZE": str(place.size)}
    if place.device == "cpu":
        os.environ["DS_ACCELERATOR"] = "cpu"
    import deepspeed

    deepspeed.utils.logger.setLevel(logging.ERROR)
    warnings.filterwarnings("ignore", category=FutureWarning, module=r"torch\.distributed")
    backend = "gloo" if place.device == "cpu" else "nccl"
    if not dist.is_initialized():
        if place.address.startswith("127."):
            os.environ.setdefault("GLOO_SOCKET_IFNAME", "lo")
        seconds = default_pg_timeout.total_seconds()
        meeting = store(place.address, place.port, rank=place.rank, size=place.size, seconds=seconds)
        dist.init_process_group(backend, store=meeting, rank=place.rank, world_size=place.size)
    # Its shared-memory kernel is compiled on first use, sums in another order, and is no faster here.
    deepspeed.ops.__compatible_ops__["deepspeed_shm_comm"] = False
    deepspeed.init_distributed(dist_backend=backend, auto_mpi_discovery=False, verbose=False)


class DeepSpeedBackend:
    def __init__(self, model: ResponseLogps | RewardHeadModel, training: Training, config: Json, place: Place) -> None:
        import deepspeed

        self.rank, self.size = place.rank, place.size
        self.lm = model.lm
        self.trained = [(name, owner) for name, owner in self.lm.named_parameters() if owner.requires_grad]
        self.optimizer = training.optimizer.build(self.lm)
        self.engine, *_ = deepspeed.initialize(
            model=model, optimizer=self.optimizer, config=config, dist_init_required=False
        )
        self.stage = self.engine.zero_optimization_stage()
        self.device = self.engine.device
        self.clip = training.clip or 0.0
        self.offloaded = OffloadedStorages()

    def parameters(self) -> Sequence[Parameter]:
        if self.stage == 0:
            return [self._replicated(name, parameter) for name, parameter in self.trained]
        if self.stage == 3:
            self.engine.optimizer._partition_all_parameters()  # release gathered parameters
            return [self._sharded(name, parameter) for name, parameter in self.trained]
        return [self._flattened(name, parameter) for name, parameter in self.trained]

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
        seen = Part(parameter.ds_tensor.detach().view(-1).narrow(0, 0, count), start, everywhere=False)
        master = Part(owner.detach().narrow(0, offset, count), start, everywhere=False)
        return Parameter(name, tuple(parameter.ds_shape), seen, master, owner, offset)

    def logps(self, packed: Packed) -> Tensor:
        return self._forward(packed)

    def spread(self, packed: Packed) -> Tensor:
        return self._forward(packed, spread)

    def _forward(self, packed: Packed, *read: Reader) -> Tensor:
        inputs = (torch.from_numpy(array).to(self.device) for array in (packed.tokens, packed.at, packed.targets))
        return self.engine(*inputs, *read, **packed.layout)

    def backward(self, loss: Tensor, *, last: bool) -> None:
        self.engine.set_gradient_accumulation_boundary(last)
        # DeepSpeed averages over ranks, but the shares of a global batch must be summed.
        self.engine.backward(loss * self.size, scale_wrt_gas=False)

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

    def sum(self, values: Tensor) -> Tensor:
        if self.size == 1:
            return values.cpu()
        total = values.to(self.device, copy=True)
        dist.all_reduce(total)
        return total.cpu()

    def whole(self, parameter: Parameter, part: Part, *, to: int) -> Tensor | None:
        if part.everywhere or self.size == 1:
            return part.values.view(parameter.shape) if self.rank == to else None
        ranges = self._ranges[parameter.name]
        if self.rank != to:
            if part.values.numel():
                dist.send(part.values.to(self.device), dst=to)
            return None
        whole = torch.empty(parameter.shape, dtype=part.values.dtype, device=self.device)
        for rank, (start, count) in enumerate(ranges):
            target = whole.view(-1).narrow(0, start, count)
            if rank == to:
                target.copy_(part.values)
            elif count:
                dist.recv(target, src=rank)
        return whole

    def gather(self, parts: Sequence[tuple[Parameter, Part]], dtype: torch.dtype) -> list[Tensor]:
        split = [(parameter, part) for parameter, part in parts if not part.everywhere and self.size > 1]
        gathered = iter(self._all_gathered(split, dtype) if split else ())
        return [
            part.values.view(parameter.shape).to(dtype) if part.everywhere or self.size == 1 else next(gathered)
            for parameter, part in parts
        ]

    def _all_gathered(self, parts: Sequence[tuple[Parameter, Part]], dtype: torch.dtype) -> list[Tensor]:
        """One all-gather of a flat buffer with this rank's slices, cast before they travel."""
        ranges = [self._ranges[parameter.name] for parameter, _ in parts]  # [P][ranks] of (start, count)
        longest = max(sum(ranks[rank][1] for ranks in ranges) for rank in range(self.size))
        mine = torch.empty(longest, dtype=dtype, device=self.device)
        at = 0
        for _, part in parts:
            at += mine.narrow(0, at, part.values.numel()).copy_(part.values).numel()
        everything = torch.empty(self.size * longest, dtype=dtype, device=self.device)
        # As bytes, because gloo does not gather every dtype.
        dist.all_gather_into_tensor(everything.view(torch.uint8), mine.view(torch.uint8))
        wholes, read = [], [rank * longest for rank in range(self.size)]
        for (parameter, _), ranks in zip(parts, ranges, strict=True):
            whole = torch.empty(parameter.shape, dtype=dtype, device=self.device)
            for rank, (start, count) in enumerate(ranks):
                whole.view(-1).narrow(0, start, count).copy_(everything.narrow(0, read[rank], count))
                read[rank] += count
            wholes.append(whole)
        return wholes

    @cached_property
    def _ranges(self) -> dict[str, list[tuple[int, int]]]:
        """Per parameter, (start, count) of the elements that each rank updates. These never change. Collective."""
        parameters = self.parameters()
        own = [(parameter.master.start, parameter.master.values.numel()) for parameter in parameters]
        local = torch.tensor(own, dtype=torch.int64, device=self.device)  # [P, 2]
        gathered = [torch.empty_like(local) for _ in range(self.size)]
        dist.all_gather(gathered, local)
        by_parameter = torch.stack(gathered, dim=1).tolist()  # [P, ranks, 2]
        return {
            parameter.name: [tuple(one) for one in ranks]
            for parameter, ranks in zip(parameters, by_parameter, strict=True)
        }

    def union(self, items: Mapping[K, V]) -> dict[K, V]:
        if self.size == 1:
            return dict(items)
        gathered: list[dict[K, V]] = [{}] * self.size
        dist.all_gather_object(gathered, dict(items))
        return {key: value for each in gathered for key, value in each.items()}

    def offload(self) -> None:
        # DeepSpeed 0.19.8 would offload less: nothing in stage 0, no moments of a torch AdamW in stage 3.
        self.offloaded.leave(self.device, self.engine.module, self.optimizer, self.engine.optimizer)

    def reload(self) -> None:
        self.offloaded.come_back()

    def close(self) -> None:
        self.engine.destroy()
