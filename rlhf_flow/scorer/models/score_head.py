"""The score in the output of a reward model: models with code of their own name it and shape it as they like."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from torch import Tensor

NAMES = ("logits", "score", "end_scores", "reward", "rewards", "end_rewards", "scores", "value", "values")


def scores_of(output: Any, mask: Tensor, *, label: int | None) -> Tensor:  # noqa: ANN401  # any model's
    """[R], of an output for a batch with this mask [R, T].

    Read is the first of `NAMES` that is there, or a tensor alone, as [R], [R, 1], [R, n] with `label`, or values of
    each token, [R, T] and [R, T, n], of which the last token that is no padding counts. Raises ValueError if there is
    none, or if it has several scores and `label` names none of them.
    """
    found = dict(_tensors(output))
    for name in (*NAMES, ""):
        if name in found:
            return _scores(found[name], mask, label, name)
    told = ", ".join(f"{name} {list(tensor.shape)}" for name, tensor in found.items()) or "no tensor"
    raise ValueError(
        f"scorer.path must give each conversation a score, as one of {', '.join(NAMES)}, and its output has {told}. "
        "Fix: call the model in a function of your own, with scorer=rule."
    )


def _tensors(output: Any) -> Iterator[tuple[str, Tensor]]:  # noqa: ANN401
    """By name; a tensor alone, or the first of a tuple, has none."""
    import torch

    if isinstance(output, torch.Tensor):
        yield "", output
    elif isinstance(output, Mapping):
        yield from ((name, held) for name, held in output.items() if isinstance(held, torch.Tensor))
    elif isinstance(output, tuple | list):
        yield from (("", held) for held in output[:1] if isinstance(held, torch.Tensor))
    else:
        yield from ((name, held) for name, held in vars(output).items() if isinstance(held, torch.Tensor))


def _scores(tensor: Tensor, mask: Tensor, label: int | None, name: str) -> Tensor:
    rows, length = mask.shape
    if tensor.dim() >= 2 and tuple(tensor.shape[:2]) == (rows, length) and (tensor.dim() == 3 or label is None):
        tensor = tensor[range(rows), mask.sum(-1) - 1]  # [R] or [R, n]
    if tensor.dim() == 1 and len(tensor) == rows:
        return tensor
    one = tensor.dim() == 2 and len(tensor) == rows and (tensor.shape[1] == 1 or label is not None)
    if one and (label or 0) < tensor.shape[1]:
        return tensor[:, label or 0]
    raise ValueError(
        f"scorer.path must give each conversation one score, and its {name or 'output'} for {rows} conversations is "
        f"{list(tensor.shape)}. Fix: choose one of several scores by scorer.label, from 0."
    )
