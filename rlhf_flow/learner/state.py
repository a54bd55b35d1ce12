"""Learner state on disk: float32 weights and moments as safetensors, counters as JSON. No pickle.

Parameter i is whole in the file of rank i % size, so the number of ranks may change between save and load.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from safetensors import safe_open
from torch import Tensor

from rlhf_flow.learner.backend import Backend
from rlhf_flow.learner.optimizer import Optimizer
from rlhf_flow.weights.buckets import TensorInfo
from rlhf_flow.weights.safetensors_file import write

INDEX = "state.json"


@dataclass(frozen=True)
class Context:
    """The prompt and response of the probe by which engines check their weights."""

    tokens: list[int]
    prompt: int  # length of the prompt


@dataclass(frozen=True)
class Counters:
    sha256: str  # of the weights as published
    optimizer: str  # adamw or sgd
    steps: int  # in the moments
    probe: Context | None
    base: str | None = None  # sha256 of the frozen base of an adapter; None: all weights are trained


def save(
    folder: Path, backend: Backend, optimizer: Optimizer, *, sha256: str, probe: Context | None, base: str | None
) -> dict[str, str]:
    """Collective. Each rank writes its file tensor by tensor; rank 0 writes the index.

    Returns the sha256 of the files of all ranks, by name.
    """
    folder.mkdir(parents=True, exist_ok=True)
    steps = step_count(backend)
    moments = optimizer.moments if steps else ()
    parameters = list(enumerate(backend.parameters()))
    parameters.sort(key=lambda each: each[1].name)  # the order of a safetensors file
    parts = [
        (f"{key}/{parameter.name}", i % backend.size, parameter, key)
        for key in sorted(("weight", *moments))
        for i, parameter in parameters
    ]
    mine = tuple(TensorInfo(name, "float32", one.shape) for name, to, one, _ in parts if to == backend.rank)

    def whole() -> Iterator[Tensor]:
        """The tensors of this rank's file; it sends its parts of all others on the way."""
        for _, to, parameter, key in parts:
            part = parameter.master
            if key != "weight":
                part = parameter.moment(backend.optimizer.state[parameter.owner][key])
            tensor = backend.whole(parameter, part, to=to)
            if to == backend.rank:
                assert tensor is not None
                yield tensor.cpu()

    file = _file(backend.rank)
    hashes = backend.union({file: write(folder / file, mine, whole())})
    if backend.rank == 0:
        index = asdict(Counters(sha256, optimizer.name, steps, probe, base))
        index |= {"files": [_file(rank) for rank in range(backend.size)]}
        (folder / INDEX).write_text(json.dumps(index) + "\n")
    return hashes


def load(folder: Path, backend: Backend, optimizer: Optimizer, *, base: str | None) -> Counters:
    """Collective, on any number of ranks. Restores weights and moments exactly."""
    index = json.loads((folder / INDEX).read_text())
    files = index.pop("files")
    probe = index.pop("probe")
    counters = Counters(**index, probe=None if probe is None else Context(**probe))
    if counters.optimizer != optimizer.name:
        raise ValueError(
            f"learner.training.optimizer.name is {optimizer.name}, but {folder} holds the state of "
            f"{counters.optimizer}. Fix: use {counters.optimizer}, or start another run from the published policy."
        )
    if counters.base != base:
        raise ValueError(
            f"{folder} holds the state of {_kind(counters.base)}, but the learner trains {_kind(base)}. "
            "Fix: set learner.lora and model.path as they were."
        )
    moments = optimizer.moments if counters.steps else ()
    if moments:
        _allocate(backend, moments)
    forget(backend)
    for i, parameter in enumerate(backend.parameters()):
        with safe_open(folder / files[i % len(files)], framework="pt") as file:
            weights = file.get_tensor(f"weight/{parameter.name}")
            parameter.seen.write(weights)
            parameter.master.write(weights)
            for key in moments:
                moment = parameter.moment(backend.optimizer.state[parameter.owner][key])
                moment.write(file.get_tensor(f"{key}/{parameter.name}"))
    for state in backend.optimizer.state.values():
        if "step" in state:
            state["step"].fill_(counters.steps)
    return counters


def forget(backend: Backend) -> None:
    """Reset the optimizer's state to zero."""
    for state in backend.optimizer.state.values():
        for tensor in state.values():
            tensor.zero_()


def step_count(backend: Backend) -> int:
    """The number of steps in the moments."""
    return max((int(state["step"]) for state in backend.optimizer.state.values() if "step" in state), default=0)


def _allocate(backend: Backend, moments: tuple[str, ...]) -> None:
    """Allocate the moments, as the optimizer would do in its first step."""
    for parameter in backend.parameters():
        if not backend.optimizer.state[parameter.owner]:
            tensors = {key: torch.zeros_like(parameter.owner, requires_grad=False) for key in moments}
            step = torch.zeros((), device=parameter.owner.device)  # there, because the optimizer is fused
            backend.optimizer.state[parameter.owner] = {"step": step, **tensors}


def _kind(base: str | None) -> str:
    return "all weights of a model" if base is None else f"an adapter for the weights {base[:12]}…"


def _file(rank: int) -> str:
    return f"rank-{rank:05d}.safetensors"
