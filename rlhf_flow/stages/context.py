"""A run: its parts, opened and placed, and the folder they write to. What the loop works with."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from rlhf_flow.metrics.alarms import Alarms
from rlhf_flow.metrics.off_policy import OffPolicy
from rlhf_flow.observe.settings import Observer
from rlhf_flow.protocols import (
    Engine,
    Learner,
    Memory,
    Objective,
    PromptSource,
    Sampler,
    Schedule,
    Scorer,
    Selector,
)
from rlhf_flow.storage.store import StageWriter, Store
from rlhf_flow.types import Policy, Rollouts, RoundPlan, SamplingParams

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    import pyarrow as pa

    Card = Callable[[int, dict[int, float]], str]


@dataclass(frozen=True)
class Evaluation:
    """How a policy is judged: by which judge, on which draw of the held-out prompts, and how often."""

    judge: Scorer
    draw: SamplingParams
    every: int
    asks_proxy: bool = True  # whether the judge of training, where it is another, judges the held-out answers too


@dataclass(frozen=True)
class Agreement:
    """How a reward model is judged: by whose labels of the held-out answers, and how often."""

    judge: Scorer
    every: int


@dataclass(frozen=True)
class RewardUpdates:
    """How the judge is trained while the policy is: on whose labels, of how many prompts of a round, and how often."""

    every: int  # rounds
    prompts: int  # of each round, whose answers are labelled
    labeller: Scorer
    objective: Objective
    start: Policy  # the judge as the run found it: what every training starts from
    learner: Callable[[], Learner]  # opens one; whoever asked closes it
    read: Callable[[Rollouts], pa.Table]  # answers in the tokens of the judge: response, prompt_tokens, tokens


@dataclass(frozen=True)
class CheckpointPolicy:
    """Which rounds leave a checkpoint, and which checkpoints stay."""

    every: int  # rounds between checkpoints
    steps: int | None  # optimizer steps between commits inside a learn stage; None: only at its end
    keep: int  # checkpoints that stay, besides the best and those that the schedule still names


@dataclass(frozen=True)
class RunContext:
    """One part per extension point: an algorithm, and the world it runs in."""

    seed: int
    rounds: int
    piece: int  # prompts per committed piece of a stage
    start: Policy
    trust_remote_code: bool
    prompts: PromptSource
    sampler: Sampler
    engine: Engine
    scorer: Scorer
    selector: Selector
    objective: Objective
    memory: Memory
    schedule: Schedule
    learner: Learner
    evaluation: Evaluation | Agreement
    keeping: CheckpointPolicy
    ledger: Store
    observers: Sequence[Observer]
    intransitive: bool = False  # whether the scorer's preferences can: then it is measured whether they do
    enough: int | None = None  # useful pairs, until which a round asks further pages of prompts; None: it asks one
    pages: int = 1  # at most
    refreshing: RewardUpdates | None = None  # None: the judge stays as it is
    alarms: Alarms = field(default_factory=Alarms)
    lag: int = 0  # rounds that answers are drawn ahead of what is learned
    disaggregated: bool = False  # whether engines and learner can work at the same time
    off_policy: OffPolicy = field(default_factory=lambda: OffPolicy(measured=0))
    card: Card | None = None  # the model card of a round's policy, from the win rates known; None: none is written

    def plan(self, round: int) -> RoundPlan:
        """What the schedule says of a round, as far as the sampler and the objective ask."""
        records = self.ledger.records if len(self.ledger.records) == round else self.ledger.records[:round]
        roles, anchors = self.sampler.roles, self.objective.at(round).needs.anchors
        return self.schedule.at(round, records).only(samplers=roles, anchors=anchors)

    def save_policy(self, shelf: StageWriter, round: int) -> None:
        """Write the policy that the learner holds, with its card."""
        self.learner.save_policy(shelf.folder("policy"))
        if self.card is not None:
            records = {record.round: record.metrics for record in self.ledger.records}
            known = {past: each["eval/win_rate"] for past, each in records.items() if past and "eval/win_rate" in each}
            shelf.text("policy/README.md", self.card(round, known))

    def progress(self, round: int, stage: str, done: int, total: int, unit: str, detail: str = "") -> None:
        for observer in self.observers:
            observer.stage(round, stage, done, total, unit, detail)
