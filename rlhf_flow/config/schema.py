"""The configuration of a run: one slot per extension point, and the settings that belong to no part.

Defaults are defined by these classes and by those of the parts alone; no YAML file repeats them.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from importlib import import_module
from typing import Any

from omegaconf import MISSING

from rlhf_flow.config.answers import Answers
from rlhf_flow.engine.none import NoEngine
from rlhf_flow.learner.optimizer import Optimizer
from rlhf_flow.learner.training import Training
from rlhf_flow.metrics.alarms import Alarms
from rlhf_flow.metrics.off_policy import Anchors, OffPolicy
from rlhf_flow.observe import Observe
from rlhf_flow.schedule import Lagged
from rlhf_flow.specs import Model
from rlhf_flow.types import SamplingParams

GROUPS: dict[str, str] = {  # extension point -> help; `rlhf_flow.<name>.PARTS` has its registered parts
    "prompts": "reads the training and held-out prompts (JSONL, parquet or a Hugging Face data set)",
    "sampler": "chooses which policies answer each prompt, and how often",
    "engine": "generates the responses (vLLM or transformers)",
    "scorer": "scores or compares the responses (reward model, LLM judge, rule, people)",
    "selector": "selects the preference pairs among the scored responses",
    "objective": "the loss (DPO, IPO, a Nash method, or one for reward models)",
    "replay": "chooses which past rounds are trained on again",
    "schedule": "chooses the policy versions to sample from, start from and anchor to",
    "learner": "trains the policy (PyTorch in one process, DeepSpeed or FSDP)",
    "cluster": "runs the workers (Ray, or all in one process)",
}


def parts(group: str) -> Mapping[str, type]:
    """The registered parts of an extension point, by name."""
    return dict(import_module(f"rlhf_flow.{group}").PARTS)


def part_name(group: str, part: object) -> str:
    """The registered name of a part, or the dotted name of the user's class."""
    for name, registered in parts(group).items():
        if type(part) is registered:
            return name
    return f"{type(part).__module__}.{type(part).__qualname__}"


@dataclass(frozen=True)
class Evaluate:
    """Evaluation of a policy on held-out prompts, or of a reward model on the labelled answers that come with them."""

    by: str = "answers"  # answers (against those of the start) | likelihood (the loss) | agreement (of a reward model)
    every: int = 1  # rounds; the last round is always evaluated
    scorer: Any = None  # any scorer; null: the scorer of training
    proxy: bool = True  # whether the scorer of training, if another, also scores the held-out answers
    draw: SamplingParams = field(default_factory=lambda: SamplingParams(name="held-out", n=1))
    samples: int = 8  # by=likelihood: held-out prompts that the policy answers, for the report; none with engine=none

    def __post_init__(self) -> None:
        if self.by not in ("answers", "likelihood", "agreement"):
            raise ValueError(
                f"evaluate.by must be answers, likelihood (of rlhf-flow sft) or agreement (of rlhf-flow train-reward), "
                f"got {self.by!r}. Fix: evaluate.by=answers."
            )
        if self.every < 1:
            raise ValueError(
                f"evaluate.every must be >= 1, got {self.every}. Fix: evaluate.every=1; a number above `rounds` "
                "evaluates the last round only."
            )
        if self.samples < 0:
            raise ValueError(f"evaluate.samples must be >= 0, got {self.samples}. Fix: evaluate.samples=8.")
        if self.draw.n != 1:
            raise ValueError(
                f"evaluate.draw.n must be 1, got {self.draw.n}: every held-out prompt is answered once. "
                "Fix: evaluate.draw.n=1, and more held-out prompts for a narrower interval."
            )


@dataclass(frozen=True)
class Resampling:
    """Whether a round with too few useful pairs samples further batches of prompts."""

    min_pairs: int | None = None  # useful pairs that suffice; null: every round has one batch
    max_batches: int = 4  # at most, of `prompts.batch` prompts each

    def __post_init__(self) -> None:
        for key, value in (("min_pairs", self.min_pairs), ("max_batches", self.max_batches)):
            if value is not None and value < 1:
                raise ValueError(f"resampling.{key} must be >= 1, got {value}. Fix: leave it out for the default.")


@dataclass(frozen=True)
class Given:
    """Pairs of a data set that each round trains on besides its own."""

    prompts: Any = None  # with two candidates: prompts@given.prompts=jsonl given.prompts.path=…; null: none
    share: float = 0.5  # given pairs, relative to the pairs that a round selects
    chosen: str = "chosen"  # the name of the better candidate
    rejected: str = "rejected"  # of the other one

    def __post_init__(self) -> None:
        if not self.share > 0:
            raise ValueError(f"given.share must be > 0, got {self.share}. Fix: leave given.prompts out, for none.")


@dataclass(frozen=True)
class Refresh:
    """Training of the reward model on new labels during the run."""

    every: int | None = None  # rounds between trainings, each at the end of a round; null: never
    scorer: Any = None  # gives the labels: any scorer
    objective: Any = None  # the loss: one for reward models
    prompts: int = 64  # per round, whose answers are labelled
    training: Training = field(default_factory=lambda: Training(optimizer=Optimizer(lr=5e-7)))

    def __post_init__(self) -> None:
        if self.every is not None and self.every < 1:
            raise ValueError(
                f"refresh.every must be >= 1, a number of rounds, got {self.every}. Fix: leave it out to train never."
            )
        if self.prompts < 1:
            raise ValueError(f"refresh.prompts must be >= 1, got {self.prompts}. Fix: refresh.prompts=64.")


@dataclass(frozen=True)
class Checkpoint:
    """How often checkpoints are written, and how many are kept."""

    every: int = 1  # rounds between checkpoints of policy and learner; the last round always has one
    steps: int | None = None  # optimizer steps between commits inside a learn stage; null: only at its end
    keep: int = 2  # newest checkpoints to keep, besides the best and those that the schedule still uses
    prompts_per_commit: int = 64  # prompts sampled and scored between two commits

    def __post_init__(self) -> None:
        for key, value in (
            ("every", self.every),
            ("steps", self.steps),
            ("keep", self.keep),
            ("prompts_per_commit", self.prompts_per_commit),
        ):
            if value is not None and value < 1:
                raise ValueError(f"checkpoint.{key} must be >= 1, got {value}. Fix: leave it out for the default.")


@dataclass(frozen=True)
class RunConfig:
    """A run. Each slot of `GROUPS` holds a part, of any class that implements the protocol of its group."""

    run_dir: str = "runs/default"  # the folder of the run; the same command resumes it
    seed: int = 0  # of everything random
    rounds: int = 4  # of sampling, scoring and training
    lag: int = 0  # 1: generate round r+1 with policy r-1 while training round r (one step off-policy)
    model: Model = field(default_factory=lambda: Model(path=MISSING))
    prompts: Any = MISSING
    sampler: Any = MISSING
    engine: Any = MISSING
    scorer: Any = MISSING
    selector: Any = MISSING
    objective: Any = MISSING
    replay: Any = MISSING
    schedule: Any = MISSING
    learner: Any = MISSING
    cluster: Any = MISSING
    answers: Answers = field(default_factory=Answers)
    evaluate: Evaluate = field(default_factory=Evaluate)
    alarms: Alarms = field(default_factory=Alarms)
    off_policy: OffPolicy = field(default_factory=OffPolicy)
    anchors: Anchors = field(default_factory=Anchors)
    resampling: Resampling = field(default_factory=Resampling)
    given: Given = field(default_factory=Given)
    refresh: Refresh = field(default_factory=Refresh)
    checkpoint: Checkpoint = field(default_factory=Checkpoint)
    observe: Observe = field(default_factory=Observe)

    @property
    def timeline(self) -> Lagged:
        """The schedule, shifted by the lag."""
        return Lagged(self.schedule, self.lag)

    @property
    def held_out_samples(self) -> bool:
        """Whether the policy answers held-out prompts."""
        by = self.evaluate.by
        return by == "answers" or (by == "likelihood" and self.evaluate.samples > 0 and self.engine != NoEngine())

    def __post_init__(self) -> None:
        if self.rounds < 1:
            raise ValueError(f"rounds must be >= 1, got {self.rounds}. Fix: rounds=1.")
        if self.lag not in (0, 1):
            raise ValueError(f"lag must be 0 or 1, got {self.lag}: sampling runs at most one round ahead. Fix: lag=1.")
        if self.seed < 0:
            raise ValueError(f"seed must be >= 0, got {self.seed}. Fix: seed=0.")
        if not self.run_dir.strip():
            raise ValueError("run_dir must name a folder, got an empty text. Fix: run_dir=runs/first.")
