"""vLLM's end of a broadcast: a weight-transfer engine that runs in the worker of every tensor-parallel rank."""

from __future__ import annotations

from dataclasses import dataclass

from vllm.distributed.weight_transfer.base import (
    WeightTransferEngine,
    WeightTransferInitInfo,
    WeightTransferUpdateInfo,
)
from vllm.model_executor.model_loader.mtp_validation import disable_mtp_completeness_check
from vllm.model_executor.model_loader.reload import finalize_layerwise_reload, initialize_layerwise_reload

from rlhf_flow.weights.broadcast import Broadcast, Channel

BACKEND = "rlhf_flow"  # of vLLM's `WeightTransferConfig`


@dataclass
class Join(WeightTransferInitInfo):
    """The fields of a `Channel`. `rank`: of the first tensor-parallel rank."""

    id: str
    address: str
    port: int
    rank: int
    size: int
    seconds: float
    device: str


@dataclass
class Take(WeightTransferUpdateInfo):
    prefix: str = ""  # of the names in the model


class Receiver(WeightTransferEngine[Join, Take]):
    """Loads what the sender broadcasts. vLLM's own `nccl` backend needs a GPU, and its trainer an import of vLLM."""

    init_info_cls = Join
    update_info_cls = Take
    _opened: Broadcast | None = None

    def init_transfer_engine(self, init_info: Join) -> None:
        self.shutdown()
        own = vars(init_info) | {"rank": init_info.rank + self.parallel_config.rank}
        self._opened = Channel(**own).open()

    def start_weight_update(self) -> None:
        initialize_layerwise_reload(self.model)

    def receive_weights(self, update_info: Take) -> None:
        assert self._opened is not None, "vLLM calls init_transfer_engine first"
        with disable_mtp_completeness_check():
            for bucket in self._opened.receive():
                self.model.load_weights((update_info.prefix + name, tensor) for name, tensor in bucket.tensors())

    def finish_weight_update(self) -> None:
        finalize_layerwise_reload(self.model, self.model_config)

    def shutdown(self) -> None:
        if self._opened is not None:
            self._opened.close()
            self._opened = None
