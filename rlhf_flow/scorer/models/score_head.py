"""Find the score in a reward model's output, whose name and shape depend on the model's own code."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from torch import Tensor

NAMES = ("logits", "score", "end_scores", "reward", "rewards", "end_rewards", "scores", "value", "values")


def scores_of(output: Any, mask: Tensor, *, label: int | None) -> Tensor:  # noqa: ANN401  # any model's
    """Scores [R] in the output for a batch with mask [R, T].

    The first of `NAMES` in the output, or a bare tensor: [R], [R, 1], [R, n] with `label`, or values per token, [R, T]
    or [R, T, n], read at the last token that is not padding. Raises ValueError if there is none, or if there are
    several scores and `label` names none of them.
    """
    found = dict(_tensors(output))
    for name in (*NAMES, ""):
        if name in found:
            return _scores(found[name], mask, label, name)
    tensors = ", ".join(f"{name} {list(tensor.shape)}" for name, tensor in found.items()) or "no tensor"
    raise ValueError(
        f"scorer.path must give each conversation a score, as one of {', '.join(NAMES)}, and its output has {tensors}. "
        "Fix: call the model in a function of your own, with scorer=rule."
    )


def _tensors(output: Any) -> Iterator[tuple[str, Tensor]]:  # noqa: ANN401
    """By name; a bare tensor, or the first of a tuple, has the name ""."""
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
    import torch

    rows, length = mask.shape
    if tensor.dim() >= 2 and tuple(tensor.shape[:2]) == (rows, length) and (tensor.dim() == 3 or label is None):
        tensor = tensor[torch.arange(rows, device=mask.device), mask.sum(-1) - 1]  # [R] or [R, n]
    if tensor.dim() == 1 and len(tensor) == rows:
        return tensor
    one = tensor.dim() == 2 and len(tensor) == rows and (tensor.shape[1] == 1 or label is not None)
    if one and (label or 0) < tensor.shape[1]:
        return tensor[:, label or 0]
    raise ValueError(
        f"scorer.path must give each conversation one score, and its {name or 'output'} for {rows} conversations is "
        f"{list(tensor.shape)}. Fix: choose one of several scores by scorer.label, from 0."
    )
