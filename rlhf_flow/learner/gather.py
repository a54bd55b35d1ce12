"""Published weights tensor by tensor: gathered from the ranks, and converted to what a checkpoint stores."""

from __future__ import annotations

import torch
from torch import Tensor

from rlhf_flow.learner.backend import Backend
from rlhf_flow.learner.trainable import Trainable
from rlhf_flow.weights.buckets import Index, TensorInfo, dtype_name, reader
from rlhf_flow.weights.layout import Layout, Piece
from rlhf_flow.weights.source import Weights


class Gathered:
    """The weights held, under their published names. All ranks must read the same tensors in the same order.

    Valid until the next forward pass.
    """

    def __init__(self, backend: Backend, trained: Trainable, dtype: torch.dtype) -> None:
        self._backend, self._dtype = backend, dtype
        self._buffers, names = trained.buffers(), trained.names()
        self._parameters = {name: one for one in backend.parameters() for name in names[one.name]}

    def index(self) -> Index:
        dtype = dtype_name(self._dtype)
        parameters = {name: TensorInfo(name, dtype, one.shape) for name, one in self._parameters.items()}
        found = parameters | {name: TensorInfo.of(name, tensor) for name, tensor in self._buffers.items()}
        return tuple(found[name] for name in sorted(found))

    def read(self, name: str, place: Tensor) -> None:
        """Write the whole tensor into `place` on rank 0."""
        if name in self._buffers:
            place.copy_(self._buffers[name].detach())
            return
        parameter = self._parameters[name]
        # The forward pass reads the master weights, or these rounded to the published dtype.
        same = parameter.seen.everywhere and parameter.seen.values.dtype in (torch.float32, self._dtype)
        whole = self._backend.whole(parameter, parameter.seen if same else parameter.master, to=0, into=place)
        if whole is not None and whole is not place:
            place.copy_(whole)


class Stored:
    """The tensors that a checkpoint stores of published weights. All ranks must read them in the order of `index`."""

    def __init__(self, weights: Gathered | Weights, layout: Layout | None) -> None:
        self._layout, self._published = layout, weights.index()
        self._entries = {entry.name: entry for entry in self._published}
        self._read = weights.read if isinstance(weights, Gathered) else reader(weights.stream())
        self._converted: dict[str, Tensor] = {}  # tensors of the current piece that were not read yet
        self._pieces: dict[str, Piece] = {}  # by stored name
        if layout is not None:
            self._pieces = {entry.name: piece for piece in layout.pieces for entry in piece.stored}

    def index(self) -> Index:
        return self._published if self._layout is None else self._layout.stored(self._published)

    def read(self, name: str, place: Tensor) -> None:
        """Write the stored tensor into `place`."""
        piece = self._pieces.get(name)
        if self._layout is None or piece is None:
            self._read(name, place)
        elif piece.as_it_is:
            self._read(piece.names[0], place)
        else:
            if name not in self._converted:
                self._converted = self._layout.made(piece, {each: self._whole(each) for each in piece.names})
            place.copy_(self._converted.pop(name))

    def _whole(self, name: str) -> Tensor:
        entry = self._entries[name]
        tensor = torch.empty(entry.shape, dtype=entry.torch_dtype)
        self._read(name, tensor)
        return tensor
