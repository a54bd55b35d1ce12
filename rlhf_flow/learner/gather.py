"""The weights that the learner holds, gathered from its ranks."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

from rlhf_flow.learner.backend import Backend, Parameter, Part
from rlhf_flow.learner.trainable import Trainable
from rlhf_flow.weights.buckets import Index, TensorInfo, dtype_name, pack


class Gathered:
    """The weights held, under their published names, on every rank: one collective per bucket.

    All ranks must read `stream` to its end. Its tensors are valid until the next forward pass or update.
    """

    def __init__(self, backend: Backend, trained: Trainable, dtype: torch.dtype, *, bucket: int) -> None:
        self._backend, self._dtype, self._bucket = backend, dtype, bucket
        self._buffers, names = trained.buffers(), trained.names()
        self._parameters = {name: one for one in backend.parameters() for name in names[one.name]}

    def index(self) -> Index:
        dtype = dtype_name(self._dtype)
        parameters = {name: TensorInfo(name, dtype, one.shape) for name, one in self._parameters.items()}
        found = parameters | {name: TensorInfo.of(name, tensor) for name, tensor in self._buffers.items()}
        return tuple(found[name] for name in sorted(found))

    def stream(self) -> Iterator[tuple[str, Tensor]]:
        """The tensors on the learner's device, sorted by name."""
        for group in pack(self.index(), self._bucket):
            names = [entry.name for entry in group if entry.name in self._parameters]
            parts = [self._part(self._parameters[name]) for name in names]
            wholes = dict(zip(names, self._backend.gather(parts, self._dtype), strict=True))
            for entry in group:
                yield entry.name, wholes.pop(entry.name) if entry.name in wholes else self._buffers[entry.name].detach()

    def _part(self, parameter: Parameter) -> tuple[Parameter, Part]:
        # The forward pass reads the master weights, or these rounded to the published dtype.
        same = parameter.seen.values.dtype in (torch.float32, self._dtype)
        return parameter, parameter.seen if same else parameter.master
