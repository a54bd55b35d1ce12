"""An engine that reports the weights that it received, and the time to load them"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple

from rlhf_flow.specs import Model, Place
from rlhf_flow.weights.fingerprint import Fingerprint, fingerprint
from transfer.meters import Clock, Spent

if TYPE_CHECKING:
    from torch import Tensor


class Received(NamedTuple):
    sha256: str  # of the weights that the engine received
    load: Spent


class Reporting:
    """Wraps an engine and times its loads."""

    def __init__(self, engine: Any) -> None:  # noqa: ANN401
        self.engine, self.clock = engine, Clock()
        self.networks: Sequence[Any] = vars(engine).get("_networks", ())
        self.given: list[tuple[str, Tensor]] = []
        load = self.clock.timed("load", engine._slots._load)
        engine._slots._load = lambda slot, tensors: load(slot, tensors if self.networks else self._noted(tensors))
        self.generate, self.close = engine.generate, engine.close
        self.step_aside, self.come_back = engine.step_aside, engine.come_back

    def report(self) -> Received:
        """Report the last load. vLLM packs its weights: this hashes what it was given; the probe checks the rest."""
        if self.networks:
            here = fingerprint(self.networks[0].state_dict())
        else:
            digest = Fingerprint()
            for name, tensor in self.given:
                digest.add(name, tensor)
            here = digest.hexdigest()
        self.given.clear()
        return Received(here, self.clock.read()["load"])

    def _noted(self, tensors: Iterator[tuple[str, Tensor]]) -> Iterator[tuple[str, Tensor]]:
        """Keep the tensors for `report`, so that the load is timed without hashing."""
        for name, tensor in tensors:
            self.given.append((name, tensor))
            yield name, tensor


@dataclass(frozen=True)
class ReportingSpec:
    spec: Any
    gpus: int = 1

    def open(self, model: Model, place: Place, *, mixes: bool = False) -> Reporting:
        return Reporting(self.spec.open(model, place))
