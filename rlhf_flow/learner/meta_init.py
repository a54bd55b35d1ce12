"""Models built without weights, whose layers get memory one after another: no rank ever holds a whole model.

Imported only when a learner opens, so it may import torch at its top.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor, nn
from torch.nn.modules.module import register_module_parameter_registration_hook


@contextmanager
def without_weights() -> Iterator[None]:
    """Models built in this block have their parameters on the meta device. Their buffers are computed as usual."""

    def emptied(module: nn.Module, name: str, parameter: Tensor) -> nn.Parameter | None:
        if parameter is None or parameter.is_meta:  # a tied parameter stays the same object
            return None
        return nn.Parameter(parameter.to("meta"), parameter.requires_grad)

    hook = register_module_parameter_registration_hook(emptied)  # type: ignore[arg-type]  # it may return a parameter
    try:
        yield
    finally:
        hook.remove()


@contextmanager
def with_stand_ins(model: nn.Module) -> Iterator[None]:
    """In this block, parameters without weights are views of one number on the CPU: peft puts adapters on their device.

    Modules may be moved within the model meanwhile, and their parameters may be frozen.
    """
    empty = [
        (module, name, parameter)
        for module in model.modules()
        for name, parameter in module.named_parameters(recurse=False)
        if parameter.is_meta
    ]
    for module, name, parameter in empty:
        number = torch.zeros((), dtype=parameter.dtype)
        setattr(module, name, nn.Parameter(number.expand(parameter.shape), parameter.requires_grad))
    yield
    for module, name, parameter in empty:
        parameter.requires_grad_(module.get_parameter(name).requires_grad)
        setattr(module, name, parameter)


def is_empty(model: nn.Module) -> bool:
    """Whether the model was built without weights."""
    return any(parameter.is_meta for parameter in model.parameters())


def layers(lm: nn.Module) -> Sequence[nn.Module]:
    """The decoder layers: the list of modules with the most parameters."""
    lists = [module for module in lm.modules() if isinstance(module, nn.ModuleList)]
    return list(max(lists, key=lambda each: sum(p.numel() for p in each.parameters()), default=[]))


def parts(model: nn.Module, lm: nn.Module) -> Sequence[nn.Module]:
    """What gets memory at once: each decoder layer, and then what is left of the model."""
    return [*layers(lm), model]


def allocate(module: nn.Module, device: torch.device, dtype: torch.dtype) -> None:
    """Give the parameters without memory some, uninitialised. Tied parameters stay tied."""
    made: dict[int, tuple[nn.Parameter, nn.Parameter]] = {}  # with the old one, whose id must not be used again
    for part in module.modules():
        for name, old in list(part.named_parameters(recurse=False)):
            if old.is_meta:
                new = nn.Parameter(torch.empty_like(old, device=device, dtype=dtype), old.requires_grad)
                setattr(part, name, made.setdefault(id(old), (new, old))[0])
