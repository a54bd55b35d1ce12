"""Failures that a process does not survive although it still answers: a worker in a new process may succeed."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

# Type, a part of its message, and why the process is of no use. Types are named, so that no worker imports another
# one's packages. torch.OutOfMemoryError is not here: the process can go on, and the same call would fail again.
FATAL = (
    ("torch.AcceleratorError", "", "the GPU context is lost, and every later call of the process fails"),
    ("torch.distributed.DistError", "", "the ranks' process group is broken (NCCL, its store or its network)"),
    ("vllm.v1.engine.exceptions.EngineDeadError", "", "vLLM's engine core died"),
    ("vllm.v1.engine.exceptions.EngineGenerateError", "", "vLLM failed"),
    ("builtins.RuntimeError", "does not recover", "vLLM failed"),  # `VLLMEngine` refuses further calls
    ("builtins.RuntimeError", "Executor failed", "a tensor-parallel process of vLLM died"),
    ("builtins.TimeoutError", "RPC call to", "a tensor-parallel process of vLLM hangs"),
    ("builtins.RuntimeError", "CUDA error", "the GPU context is lost"),  # of cuBLAS, or of a process of vLLM
    ("builtins.RuntimeError", "CUDA driver error", "the GPU context is lost"),
    ("builtins.RuntimeError", "Triton Error [CUDA]", "the GPU context is lost"),
    ("builtins.RuntimeError", "cuDNN error", "the GPU context is lost"),
    ("builtins.RuntimeError", "NCCL error", "the communicator is broken"),  # of vLLM's own bindings
)


class BrokenWorkerError(Exception):
    """The worker needs a new process. The text has the reason, and type and text of the failure."""


@contextmanager
def fatal_failures() -> Iterator[None]:
    """Raise BrokenWorkerError for a failure that is fatal, or that comes from a fatal one; others as they are."""
    try:
        yield
    except BrokenWorkerError:
        raise
    except Exception as failure:
        for error in _chain(failure):
            if why := _why_fatal(error):
                text = " ".join(str(error).split())
                raise BrokenWorkerError(f"{why}: {type(error).__name__}: {text}") from failure
        raise


def _why_fatal(error: BaseException) -> str | None:
    types = {f"{kind.__module__}.{kind.__qualname__}" for kind in type(error).__mro__}
    return next((why for name, part, why in FATAL if name in types and part in str(error)), None)


def _chain(error: BaseException | None) -> Iterator[BaseException]:
    """The error, and those from which or during whose handling it was raised."""
    while error is not None:
        yield error
        error = error.__cause__ or error.__context__
