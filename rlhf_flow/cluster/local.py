"""All workers in the driver's process, without Ray and with one learner rank: for laptops, debuggers and tests."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import ClassVar

from rlhf_flow.protocols import Engine, Learner, Scorer
from rlhf_flow.specs import Cluster, EngineSpec, LearnerSpec, Model, Place, ScorerSpec


@dataclass(frozen=True)
class Local:
    """One process on this machine, on its GPU if there is one."""

    in_process: ClassVar[bool] = True
    disaggregated: ClassVar[bool] = False
    address: ClassVar[str | None] = None
    nodes: ClassVar[int] = 1
    engines: ClassVar[int] = 1
    scorers: ClassVar[int] = 1
    gpu_share: ClassVar[float] = 1.0
    object_store_mib: ClassVar[int | None] = None

    def sized(self, *, policies: int, weights: int) -> Local:
        """It has no object store and waits for nothing."""
        return self

    def check(self, *, ranks: int) -> None:
        """Raise ValueError for several learner ranks."""
        if ranks > 1:
            raise ValueError(
                f"learner.ranks={ranks}: cluster=local runs one learner rank in its own process. "
                "Fix: cluster=ray, or learner.ranks=1."
            )

    def open(self) -> Cluster:
        from transformers.utils import logging

        logging.disable_progress_bar()  # the run has its own console output
        return LocalCluster(_device())


@dataclass
class LocalCluster:
    device: str
    opened: list[Engine | Scorer | Learner] = field(default_factory=list)

    def engine(self, spec: EngineSpec, model: Model, *, mixes: bool = False) -> Engine:
        engine = spec.open(model, Place(device=self.device), mixes=mixes)
        self.opened.append(engine)
        return engine

    def scorer(self, spec: ScorerSpec) -> Scorer:
        scorer = spec.open(Place(device=self.device))
        self.opened.append(scorer)
        return scorer

    def learner(self, spec: LearnerSpec, model: Model) -> Learner:
        learner = spec.open(model, Place(device=self.device))
        self.opened.append(learner)
        return learner

    def ready(self) -> None:
        """Workers are ready once they are open."""

    @property
    def gpus(self) -> float:
        return float(self.device != "cpu")

    @property
    def deaths(self) -> tuple[str, ...]:
        """No worker dies without the driver."""
        return ()

    def close(self) -> None:
        for worker in self.opened:
            worker.close()


def _device() -> str:
    import torch

    return "cuda" if torch.cuda.is_available() else "cpu"
