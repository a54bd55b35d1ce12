"""Offloaded storages are empty until they come back, and then hold the same bits."""

from __future__ import annotations

import torch
from torch import nn

from rlhf_flow.learner.storages import OffloadedStorages, tensors

CPU = torch.device("cpu")


def held(*holders: object) -> int:
    """Bytes in the storages of all tensors."""
    storages = {each.untyped_storage().data_ptr(): each.untyped_storage() for each in tensors(*holders)}
    return sum(storage.nbytes() for storage in storages.values())


def test_tensors_that_shared_their_storage_still_do() -> None:
    flat = torch.arange(12.0)
    views, layer = [flat[:5], flat[5:].view(7, 1)], nn.Linear(2, 2)
    layer.weight.data = flat[2:6].view(2, 2)
    before = [each.clone() for each in (flat, *views, layer.weight)]
    offload = OffloadedStorages()
    offload.leave(CPU, {"flat": flat, "views": views}, layer)
    assert offload.bytes == flat.nbytes + layer.bias.nbytes
    assert held(flat, layer) == 0
    offload.come_back()
    assert all(map(torch.equal, (flat, *views, layer.weight), before))
    flat[2] = 100
    assert views[0][2] == layer.weight[0, 0] == 100


def test_what_is_on_another_device_stays() -> None:
    offload = OffloadedStorages()
    offload.leave(torch.device("meta"), {"of the host": torch.arange(4)})
    assert offload.bytes == 0


def test_gradients_and_moments_leave_with_their_parameters() -> None:
    layer = nn.Linear(3, 3, bias=False)
    optimizer = torch.optim.AdamW(layer.parameters())
    layer(torch.ones(3)).sum().backward()
    optimizer.step()
    offload = OffloadedStorages()
    offload.leave(CPU, layer, optimizer)
    assert offload.bytes == 4 * layer.weight.nbytes + 4  # and the count of steps
    assert held(layer, optimizer) == 0


def test_both_calls_are_idempotent() -> None:
    tensor, offload = torch.arange(3), OffloadedStorages()
    offload.come_back()
    offload.leave(CPU, [tensor])
    offload.leave(CPU, [tensor])
    offload.come_back()
    offload.come_back()
    assert tensor.tolist() == [0, 1, 2]
