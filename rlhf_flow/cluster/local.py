"""Everything in this process: no Ray, one learner rank. The same loop for a laptop, a debugger or a test."""

from __future__ import annotations

from dataclasses import dataclass, field

from rlhf_flow.protocols import Engine, Learner, Scorer
from rlhf_flow.specs import Cluster, EngineSpec, LearnerSpec, Model, Place, ScorerSpec


@dataclass(frozen=True)
class Local:
    """One process on this machine, on its GPU where there is one."""

    @property
    def in_process(self) -> bool:
        return True

    @property
    def disaggregated(self) -> bool:
        return False

    def check(self, *, ranks: int) -> None:
        """Raise ValueError for a learner that does not fit."""
        if ranks > 1:
            raise ValueError(
                f"cluster=local runs one learner rank in its own process, but learner.ranks={ranks}. "
                "Try cluster=ray, or learner.ranks=1."
            )

    def open(self) -> Cluster:
        from transformers.utils import logging

        logging.disable_progress_bar()  # of loading weights: the run has a terminal view of its own
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
        """They are, as soon as they are open."""

    @property
    def deaths(self) -> tuple[str, ...]:
        """None is survived: they all live in this process."""
        return ()

    def close(self) -> None:
        for worker in self.opened:
            worker.close()


def _device() -> str:
    import torch

    return "cuda" if torch.cuda.is_available() else "cpu"
