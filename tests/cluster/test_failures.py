"""Which failures only a new process mends."""

from __future__ import annotations

import pickle

import pytest
import torch

from rlhf_flow.cluster.failures import BrokenWorkerError, fatal_failures

BROKEN = [
    torch.AcceleratorError("CUDA error: device-side assert triggered"),
    torch.distributed.DistBackendError("NCCL communicator was aborted on rank 1"),
    torch.distributed.DistNetworkError("The server socket has failed to listen: EADDRINUSE"),
    RuntimeError("CUDA error: CUBLAS_STATUS_EXECUTION_FAILED when calling `cublasGemmEx`"),
    RuntimeError("Triton Error [CUDA]: an illegal memory access was encountered"),
    RuntimeError("cuDNN error: CUDNN_STATUS_EXECUTION_FAILED"),
    RuntimeError("NCCL error: unhandled cuda error"),
    RuntimeError("Worker failed with error 'CUDA error: unspecified launch failure', please check the stack trace"),
    RuntimeError("Executor failed."),
    TimeoutError("RPC call to execute_model timed out."),
]
ORDINARY = [
    torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB."),
    ValueError("vLLM refuses the request: CUDA error"),
    FloatingPointError("the loss is not finite"),
    KeyError("CUDA error"),
    TimeoutError("a reward server did not answer"),
    RuntimeError("connection reset by peer"),  # a peer's death is found by `WorkerGroup`
    RuntimeError("NaNs detected in logits"),
]


def text_of(error: Exception) -> str:
    return f"{type(error).__name__}: {error}"


@pytest.mark.parametrize("error", BROKEN, ids=text_of)
def test_a_failure_of_the_gpu_of_the_ranks_or_of_vllm_breaks_the_worker(error: Exception) -> None:
    with pytest.raises(BrokenWorkerError) as raised, fatal_failures():
        raise error
    assert text_of(error) in str(raised.value)
    assert str(pickle.loads(pickle.dumps(raised.value))) == str(raised.value)


@pytest.mark.parametrize("error", ORDINARY, ids=text_of)
def test_another_error_is_raised_as_it_is(error: Exception) -> None:
    with pytest.raises(type(error)) as raised, fatal_failures():
        raise error
    assert raised.value is error


def test_an_error_that_such_a_failure_led_to_breaks_the_worker_too() -> None:
    def shut_down() -> None:
        try:
            raise BROKEN[0]
        finally:
            raise KeyError("request 7")

    with pytest.raises(BrokenWorkerError, match="device-side assert"), fatal_failures():
        shut_down()
    with pytest.raises(BrokenWorkerError, match="device-side assert"), fatal_failures():
        raise torch.OutOfMemoryError("CUDA out of memory.") from BROKEN[0]


def test_a_failure_is_told_once() -> None:
    with pytest.raises(BrokenWorkerError) as raised, fatal_failures(), fatal_failures():
        raise BROKEN[0]
    assert str(raised.value).count("device-side assert") == 1


@pytest.mark.vllm
def test_the_failures_of_vllm_have_the_names_that_are_known() -> None:
    from vllm.v1.engine.exceptions import EngineDeadError, EngineGenerateError

    for error in (EngineDeadError(), EngineGenerateError("a request")):
        with pytest.raises(BrokenWorkerError), fatal_failures():
            raise error
