"""The weights that ranks hold parts of, under the names by which they are published: one tensor at a time."""

from __future__ import annotations

import torch
from torch import Tensor

from rlhf_flow.learner.backend import Backend
from rlhf_flow.learner.trainable import Trainable
from rlhf_flow.weights.buckets import Index, TensorInfo


class Gathered:
    """Good until the next forward pass. All ranks read the same tensors in the same order."""

    def __init__(self, backend: Backend, trained: Trainable, dtype: torch.dtype) -> None:
        self._backend, self._dtype = backend, dtype
        self._buffers, names = trained.buffers(), trained.names()
        self._parameters = {name: one for one in backend.parameters() for name in names[one.name]}

    def index(self) -> Index:
        dtype = str(self._dtype).removeprefix("torch.")
        parameters = {name: TensorInfo(name, dtype, one.shape) for name, one in self._parameters.items()}
        found = parameters | {name: TensorInfo.of(name, tensor) for name, tensor in self._buffers.items()}
        return tuple(found[name] for name in sorted(found))

    def read(self, name: str, place: Tensor) -> None:
        """Put the whole tensor into its place on rank 0; a tied one once more under each of its names."""
        if name in self._buffers:
            place.copy_(self._buffers[name].detach())
            return
        parameter = self._parameters[name]
        # What the forward pass reads is the master, or the master rounded to what is published.
        same = parameter.seen.everywhere and parameter.seen.values.dtype in (torch.float32, self._dtype)
        whole = self._backend.whole(parameter, parameter.seen if same else parameter.master, to=0, into=place)
        if whole is not None and whole is not place:
            place.copy_(whole)
