"""What of published weights a checkpoint stores, tensor by tensor."""

from __future__ import annotations

import torch
from torch import Tensor

from rlhf_flow.learner.gather import Gathered
from rlhf_flow.weights.buckets import Index, reader
from rlhf_flow.weights.layout import Layout, Piece
from rlhf_flow.weights.source import Weights


class Stored:
    """For `buckets.fill`. All ranks read the same tensors in the same order."""

    def __init__(self, weights: Gathered | Weights, layout: Layout | None) -> None:
        self._layout, self._published = layout, weights.index()
        self._entries = {entry.name: entry for entry in self._published}
        self._read = weights.read if isinstance(weights, Gathered) else reader(weights.stream())
        self._made: dict[str, Tensor] = {}  # of a piece of several tensors: those that were not read yet
        self._pieces: dict[str, Piece] = {}  # by the name of what is stored
        if layout is not None:
            self._pieces = {entry.name: piece for piece in layout.pieces for entry in piece.stored}

    def index(self) -> Index:
        """In the order in which `read` must be called."""
        return self._published if self._layout is None else self._layout.stored(self._published)

    def read(self, name: str, place: Tensor) -> None:
        """Put the stored tensor into its place."""
        piece = self._pieces.get(name)
        if self._layout is None or piece is None:
            self._read(name, place)
        elif piece.as_it_is:
            self._read(piece.names[0], place)
        else:
            if name not in self._made:
                self._made = self._layout.made(piece, {each: self._whole(each) for each in piece.names})
            place.copy_(self._made.pop(name))

    def _whole(self, name: str) -> Tensor:
        entry = self._entries[name]
        tensor = torch.empty(entry.shape, dtype=entry.torch_dtype)
        self._read(name, tensor)
        return tensor
