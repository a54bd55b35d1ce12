"""The backend of one process: a torch optimizer on the model's parameters."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from rlhf_flow.learner.backend import K, Parameter, Part, V
from rlhf_flow.learner.batching import Packed
from rlhf_flow.learner.logits import Reader, spread
from rlhf_flow.learner.policy_model import ResponseLogps
from rlhf_flow.learner.reward_model import RewardHeadModel
from rlhf_flow.learner.training import Training
from rlhf_flow.weights.offload import free_gpu_cache


class TorchBackend:
    def __init__(self, model: ResponseLogps | RewardHeadModel, training: Training, *, device: str) -> None:
        self.rank, self.size, self.replica, self.replicas = 0, 1, 0, 1
        self.model = model.to(device)
        self.lm = model.lm
        self.device = torch.device(device)
        self.reads = torch.float32  # autocast leaves norms so
        self.trained = [(name, owner) for name, owner in self.lm.named_parameters() if owner.requires_grad]
        self.optimizer = training.optimizer.build(self.lm)
        self.moments = training.optimizer.moments
        self.clip = training.clip or 0.0
        self.autocast = training.precision == "bfloat16"

    def parameters(self) -> Sequence[Parameter]:
        parameters = []
        for name, owner in self.trained:
            part = Part(owner.detach().view(-1), start=0, everywhere=True)
            parameters.append(Parameter(name, tuple(owner.shape), part, part, owner, offset=0))
        return parameters

    def frozen(self) -> Mapping[str, Part]:
        return {}

    def logps(self, packed: Packed) -> Tensor:
        return self._forward(packed)

    def spread(self, packed: Packed) -> Tensor:
        return self._forward(packed, spread)

    def _forward(self, packed: Packed, *read: Reader) -> Tensor:
        inputs = (torch.from_numpy(array).to(self.device) for array in (packed.tokens, packed.at, packed.targets))
        with torch.autocast(self.device.type, dtype=torch.bfloat16, enabled=self.autocast):
            return self.model(*inputs, *read, **packed.layout)

    def backward(self, loss: Tensor, *, last: bool) -> None:
        loss.backward()

    def step(self, lr: float) -> float:
        gradients = [p.grad for p in self.model.parameters() if p.grad is not None]
        norm = torch.nn.utils.get_total_norm(gradients)
        if not torch.isfinite(norm):
            self.optimizer.zero_grad()
            raise FloatingPointError(f"the gradient norm is {norm.item()}")
        if self.clip:
            torch.nn.utils.clip_grads_with_norm_(self.model.parameters(), self.clip, norm)
        for group in self.optimizer.param_groups:
            group["lr"] = lr
        self.optimizer.step()
        self.optimizer.zero_grad()
        return norm.item()

    def discard(self, loss: Tensor) -> None:
        self.optimizer.zero_grad()

    def sum(self, values: Tensor) -> Tensor:
        return values.cpu()

    def whole(self, parameter: Parameter, part: Part, *, to: int) -> Tensor | None:
        return part.values.view(parameter.shape)

    def gather(self, parts: Sequence[tuple[Parameter, Part]], dtype: torch.dtype) -> list[Tensor]:
        return [part.values.view(parameter.shape).to(dtype) for parameter, part in parts]

    def union(self, items: Mapping[K, V]) -> dict[K, V]:
        return dict(items)

    def offload(self) -> None:
        self._move(torch.device("cpu"))
        free_gpu_cache()

    def reload(self) -> None:
        self._move(self.device)

    def _move(self, device: torch.device) -> None:
        self.model.to(device)  # gradients too
        for state in self.optimizer.state.values():
            for key in self.moments:
                state[key] = state[key].to(device)

    def close(self) -> None: ...
