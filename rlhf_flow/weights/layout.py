"""How checkpoints store a model: the names and shapes that `save_pretrained` writes.

On load, transformers renames, stacks and splits the tensors of some architectures (Mixtral's experts
`model.layers.0.mlp.experts.gate_up_proj` are stored as `model.layers.0.block_sparse_moe.experts.0.w1.weight`, ...) and
ties others. Every other reader of checkpoints, such as vLLM, knows the stored names only.
"""

from __future__ import annotations

import copy
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from typing import TYPE_CHECKING

from rlhf_flow.weights.buckets import Index, TensorInfo

if TYPE_CHECKING:
    from torch import Tensor
    from transformers import PreTrainedModel


@dataclass(frozen=True)
class Piece:
    """Tensors of the model that are converted together."""

    names: tuple[str, ...]  # in the model
    stored: Index  # with the dtype of the skeleton
    as_it_is: bool  # one tensor, at most renamed


@dataclass(frozen=True)
class Layout:
    """The layout of one model. Every name, tied ones too, is in exactly one piece."""

    skeleton: PreTrainedModel  # on the meta device
    pieces: tuple[Piece, ...]  # in the order of the model's names
    again: frozenset[str]  # names that are not stored, being tied to another one

    @classmethod
    def of(cls, lm: PreTrainedModel) -> Layout:
        """The layout of a model; it may be a skeleton."""
        skeleton = skeleton_of(lm)
        state = skeleton.state_dict()
        again = frozenset(state) - _kept(skeleton)
        return cls(skeleton, tuple(_pieces(skeleton, state)), again)

    def stored(self, index: Index) -> Index:
        """The index of a checkpoint of a model with the tensors `index`, in the order of `convert`."""
        dtypes = {entry.name: entry.dtype for entry in index}
        return tuple(
            replace(entry, dtype=dtypes[piece.names[0]])
            for piece in self.pieces
            if not self.again.issuperset(piece.names)
            for entry in piece.stored
        )

    def convert(self, tensors: Iterable[tuple[str, Tensor]]) -> Iterator[tuple[str, Tensor]]:
        """The stored tensors, from the model's tensors sorted by name. Tied tensors come once."""
        waiting: dict[str, Tensor] = {}
        for name, tensor in tensors:
            piece = self.piece_of[name]
            if piece.as_it_is:
                if name not in self.again:
                    yield piece.stored[0].name, tensor
                continue
            waiting[name] = tensor
            if waiting.keys() >= set(piece.names):
                yield from self.made(piece, {name: waiting.pop(name) for name in piece.names}).items()

    def made(self, piece: Piece, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """The stored tensors of a piece, from its tensors in the model."""
        return {name: tensor.contiguous() for name, tensor in _reverted(self.skeleton, tensors).items()}

    @cached_property
    def piece_of(self) -> Mapping[str, Piece]:
        """Pieces by name in the model."""
        return {name: piece for piece in self.pieces for name in piece.names}


def skeleton_of(lm: PreTrainedModel) -> PreTrainedModel:
    """A model of the same class and configuration on the meta device. Under ZeRO-3, `lm` itself has no shapes."""
    import torch

    with torch.device("meta"):
        skeleton: PreTrainedModel = type(lm)(copy.deepcopy(lm.config))
    return skeleton


def _kept(skeleton: PreTrainedModel) -> frozenset[str]:
    """The names that `save_pretrained` stores, one of each group of tied tensors."""
    from transformers.modeling_utils import remove_tied_weights_from_state_dict

    state = remove_tied_weights_from_state_dict(dict(skeleton.state_dict()), skeleton)
    return frozenset(state) - frozenset(skeleton._keys_to_ignore_on_save or ())


def _pieces(skeleton: PreTrainedModel, state: Mapping[str, Tensor]) -> Iterator[Piece]:
    """The smallest pieces that convert independently: tensors, else layers, else the whole model."""
    whole = {entry.name: entry.shape for entry in _entries(_reverted(skeleton, state))}
    for key in (str, _layer, lambda name: ""):
        groups: dict[str, list[str]] = {}
        for name in sorted(state):
            groups.setdefault(key(name), []).append(name)
        pieces = [_piece(skeleton, {name: state[name] for name in names}) for names in groups.values()]
        if {entry.name: entry.shape for piece in pieces for entry in piece.stored} == whole:
            yield from pieces
            return


def _piece(skeleton: PreTrainedModel, state: Mapping[str, Tensor]) -> Piece:
    reverted = _reverted(skeleton, state)
    same = len(state) == 1 and [*map(id, reverted.values())] == [*map(id, state.values())]
    return Piece(tuple(state), _entries(reverted), same)


def _layer(name: str) -> str:
    """The layer of a tensor: its name up to the first number."""
    found = re.match(r".*?\.\d+\.", name)
    return found[0] if found else name


def _reverted(skeleton: PreTrainedModel, state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    from transformers.core_model_loading import revert_weight_conversion

    reverted: dict[str, Tensor] = revert_weight_conversion(skeleton, dict(state))
    return reverted


def _entries(state: Mapping[str, Tensor]) -> Index:
    return tuple(TensorInfo.of(name, tensor) for name, tensor in state.items())
