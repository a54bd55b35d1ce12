"""`RunContext`: the opened parts of a run and its storage, passed to every stage."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING

from rlhf_flow.metrics.alarms import Alarms
from rlhf_flow.metrics.off_policy import Anchors, OffPolicy
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
from rlhf_flow.storage.store import StageFacts, StageRecord, StageWriter, Store
from rlhf_flow.types import Message, Policy, Rollouts, RoundPlan, SamplingParams

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    import pyarrow as pa

    ModelCard = Callable[[int], str]


@dataclass(frozen=True)
class Evaluation:
    """How a policy is evaluated on the held-out prompts."""

    scorer: Scorer
    draw: SamplingParams
    every: int  # rounds
    asks_proxy: bool = True  # whether the scorer of training, if another, also scores the held-out responses


@dataclass(frozen=True)
class Agreement:
    """How a reward model is evaluated: against the labels of this scorer on the held-out responses."""

    scorer: Scorer
    every: int  # rounds


@dataclass(frozen=True)
class GivenPairs:
    """Pairs of a data set that each round trains on besides its own."""

    prompts: PromptSource  # another one after a resume, for rounds that have not selected their pairs
    share: float  # of them, relative to the pairs that the round selects
    chosen: str  # the name of the better candidate
    rejected: str


@dataclass(frozen=True)
class Likelihood:
    """How a policy is evaluated without a scorer: by its loss on the held-out answers of the data set."""

    draw: SamplingParams
    every: int  # rounds
    samples: int  # held-out prompts that the policy answers; no metric reads them


@dataclass(frozen=True)
class RewardUpdates:
    """How the scorer is trained during the run."""

    every: int  # rounds
    prompts: int  # per round, whose responses are labelled
    labeller: Scorer
    objective: Objective
    start: Policy  # the scorer at the start of the run; every training starts from it
    learner: Callable[[], Learner]  # opens one; the caller closes it
    read: Callable[[Rollouts], pa.Table]  # responses in the scorer's tokens: response, prompt_tokens, tokens


@dataclass(frozen=True)
class CheckpointPolicy:
    """Which rounds write a checkpoint, and which checkpoints are kept."""

    every: int  # rounds between checkpoints
    steps: int | None  # optimizer steps between commits inside a learn stage; None: only at its end
    keep: int  # newest checkpoints to keep, besides the best and those that the schedule still uses


@dataclass(frozen=True)
class RunContext:
    """One part per extension point, and the storage of the run."""

    seed: int
    rounds: int
    prompts_per_commit: int  # of the stages sample and score
    start: Policy
    trust_remote_code: bool
    prompts: PromptSource
    sampler: Sampler
    engine: Engine
    scorer: Scorer
    selector: Selector
    objective: Objective
    replay: Memory
    schedule: Schedule
    learner: Learner
    evaluation: Evaluation | Agreement | Likelihood
    checkpoints: CheckpointPolicy
    ledger: Store
    observers: Sequence[Observer]
    intransitive: bool = False  # whether the scorer's preferences can be; if so, cycles are measured
    min_pairs: int | None = None  # pairs below which a round samples further batches of prompts; None: one batch
    max_batches: int = 1
    reward_updates: RewardUpdates | None = None  # None: the scorer is not trained
    alarms: Alarms = field(default_factory=Alarms)
    lag: int = 0  # rounds by which sampling runs ahead of training
    disaggregated: bool = False  # whether engines and learner can work at the same time
    scores_while_sampling: bool = False  # whether engines and scorers can work at the same time
    off_policy: OffPolicy = field(default_factory=lambda: OffPolicy(measured=0))
    anchors: Anchors = field(default_factory=lambda: Anchors(by="learner"))
    anchor_policies: Mapping[str, Policy] = field(default_factory=dict)  # those of `anchors.policies`
    given: GivenPairs | None = None
    render: Callable[[Sequence[Message]], list[int]] | None = None  # a chat as tokens, for scorers that ask a policy
    model_card: ModelCard | None = None  # text of the card of a round's policy; None: no card

    def plan(self, round: int) -> RoundPlan:
        """The schedule's plan of a round, restricted to the policies that the sampler and the objective use."""
        records = self.ledger.records if len(self.ledger.records) == round else self.ledger.records[:round]
        anchors = self.objective.at(round).needs.anchors - set(self.anchor_policies)
        return self.schedule.at(round, records).only(samplers=self.sampler.roles, anchors=anchors)

    def save_policy(self, writer: StageWriter, round: int, policy: Policy | None = None) -> None:
        """Write a policy (default: the one that the learner holds), with its model card."""
        writer.save("policy", partial(self.learner.save_policy, policy=policy))
        if self.model_card is not None:
            writer.text("policy/README.md", self.model_card(round))

    def commit(self, round: int, stage: str, write: Callable[[StageWriter], StageFacts]) -> StageRecord:
        """Commit a stage and tell the observers when it begins and ends."""
        self.progress(round, stage, 0, 1, "rounds")
        record = self.ledger.commit(round, stage, write)
        self.progress(round, stage, 1, 1, "rounds")
        return record

    def progress(self, round: int, stage: str, done: int, total: int, unit: str, detail: str = "") -> None:
        for observer in self.observers:
            observer.stage(round, stage, done, total, unit, detail)
