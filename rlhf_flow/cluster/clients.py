"""What stands for a worker on the cluster: the same methods, and they block. Nothing above this folder knows more."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from threading import Lock
from typing import TYPE_CHECKING, Any

from rlhf_flow.cluster.gpu_sharing import GpuSlot
from rlhf_flow.cluster.replay_log import CallLog, clear
from rlhf_flow.cluster.supervisor import DeadWorkerError, Supervisor
from rlhf_flow.cluster.worker_group import WorkerGroup
from rlhf_flow.cluster.worker_pool import Call, Pool
from rlhf_flow.scorer.chunking import in_pieces
from rlhf_flow.storage.tables import Table, TrainingRound
from rlhf_flow.types import Mixture, Policy, Prompt, Rollouts, SamplingParams, Scored

if TYPE_CHECKING:
    import pyarrow as pa

    from rlhf_flow.cluster.weight_sync.direct import DirectWeightSync

SHARE = 2  # what is left is handed out as if there were so many times as many engines: the pieces get smaller


@dataclass(frozen=True)
class RayEngine:
    """Engines that share the prompts of a call."""

    pool: Pool
    piece: int  # prompts that are handed out at once, at least
    express: DirectWeightSync | None = None  # for weights that a learner still holds

    def generate(
        self, prompts: Sequence[Prompt], policy: Policy | Mixture, draw: SamplingParams, *, round: int, seed: int
    ) -> Rollouts:
        """As of one engine: seeds belong to prompts, so that the answers do not depend on who drew them."""
        if self.express is not None and isinstance(policy, Policy):
            self.express.give(policy, self.pool)
        named = {"round": round, "seed": seed}
        pieces = _guided(prompts, engines=len(self.pool.crews), least=self.piece)
        parts = self.pool.ask([Call("generate", (piece, policy, draw), named) for piece in pieces])
        if len(parts) == 1:
            only: Rollouts = parts[0]
            return only
        return Rollouts(
            round=round,
            prompts=tuple(prompt for part in parts for prompt in part.prompts),
            responses=tuple(group for part in parts for group in part.responses),
        )

    def close(self) -> None:
        self.pool.dismiss()


@dataclass(frozen=True)
class RayScorer:
    """Scorers that share the prompts of a call, always in the same pieces: a judge's sums depend on its batches."""

    pool: Pool
    piece: int  # prompts

    def score(self, rollouts: Rollouts) -> Scored:
        return in_pieces(self._score, rollouts, self.piece)

    def _score(self, pieces: Sequence[Rollouts]) -> list[Scored]:
        return self.pool.ask([Call("score", (piece,)) for piece in pieces])

    def close(self) -> None:
        self.pool.dismiss()

    @property
    def closed(self) -> bool:
        return self.pool.dismissed


@dataclass(frozen=True)
class RayLearner:
    """The ranks of a learner. When one of them dies all are started again, and told again what they were told."""

    crew: WorkerGroup
    turn: GpuSlot
    supervisor: Supervisor
    journal: CallLog = field(default_factory=CallLog)
    busy: Lock = field(default_factory=Lock)  # while it is asked

    def start(self, policy: Policy) -> None:
        self._ask("start", policy)

    def logps(self, responses: Sequence[Table], wanted: Sequence[str], policy: Policy) -> pa.Table:
        return self._ask("logps", responses, wanted, policy)

    def spread(self, responses: Sequence[Table], wanted: Sequence[str], policy: Policy) -> pa.Table:
        return self._ask("spread", responses, wanted, policy)

    def steps(self, lesson: TrainingRound) -> int:
        return self._ask("steps", lesson)

    def update(self, lesson: TrainingRound, first: int, last: int) -> Mapping[str, float]:
        return self._ask("update", lesson, first, last)

    def publish(self, name: str, round: int) -> Policy:
        return self._ask("publish", name, round)

    def average(self, name: str, round: int, terms: Sequence[tuple[Policy, float]]) -> Policy:
        return self._ask("average", name, round, terms)

    def save_policy(self, folder: Path, policy: Policy | None = None) -> None:
        self._ask("save_policy", folder, policy)

    def save_state(self, folder: Path) -> None:
        self._ask("save_state", folder)

    def load_state(self, folder: Path) -> None:
        self._ask("load_state", folder)

    def close(self) -> None:
        self.crew.dismiss()

    @property
    def closed(self) -> bool:
        return not self.crew.ranks

    def _ask(self, method: str, *arguments: Any) -> Any:
        """Raises what a rank raised, or WorkerError where too many died."""
        with self.busy:
            return self._insist(method, arguments)

    def _insist(self, method: str, arguments: tuple[Any, ...]) -> Any:
        while True:
            try:
                self.turn.take()
                if not self.crew.ranks:
                    self.crew.start()
                if not self.crew.where:
                    self._begin_again()
                result = self.crew.ask(method, *arguments)
            except DeadWorkerError as death:
                self.supervisor.survive(death)
                self.crew.dismiss()
                clear(method, arguments)
            else:
                self.journal.note(method, arguments, result)
                return result

    def _begin_again(self) -> None:
        """Bring fresh ranks to where the last ones were."""
        self.crew.ready()
        for method, arguments in self.journal.calls:
            self.crew.ask(method, *arguments)


def _guided(prompts: Sequence[Prompt], *, engines: int, least: int) -> list[Sequence[Prompt]]:
    """The prompts in pieces, the larger ones first: engines that are handed them as they come free end together.

    Guided self-scheduling, Polychronopoulos and Kuck 1987. One engine gets them all: it fills its batches best.
    """
    if engines == 1:
        return [prompts]
    pieces, at = [], 0
    while at < len(prompts):
        size = max(least, -(-(len(prompts) - at) // (SHARE * engines)))
        pieces.append(prompts[at : at + size])
        at += size
    return pieces or [prompts]
