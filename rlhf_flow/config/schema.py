"""Everything a run's configuration holds: one slot per extension point, and what belongs to no part.

The defaults in these classes, and in the classes of the parts, are the defaults: no file repeats them.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from importlib import import_module
from typing import Any

from omegaconf import MISSING

from rlhf_flow.config.answers import Answers
from rlhf_flow.learner.optimizer import Optimizer
from rlhf_flow.learner.training import Training
from rlhf_flow.metrics.alarms import Alarms
from rlhf_flow.metrics.off_policy import OffPolicy
from rlhf_flow.observe import Observe
from rlhf_flow.schedule import Lagged
from rlhf_flow.specs import Model
from rlhf_flow.types import SamplingParams

GROUPS: dict[str, str] = {  # extension point -> what it decides; `rlhf_flow.<name>.PARTS` has what there is to choose
    "prompts": "what is asked",
    "sampler": "who answers, and how often",
    "engine": "what generates the answers",
    "scorer": "what an answer is worth",
    "selector": "which answers become pairs",
    "objective": "what is minimised",
    "replay": "which past rounds the learner still sees",
    "schedule": "which versions of the policy a round uses",
    "learner": "what optimises",
    "cluster": "where all of this runs",
}


def parts(group: str) -> Mapping[str, type]:
    """The registered parts of an extension point, by name."""
    return dict(import_module(f"rlhf_flow.{group}").PARTS)


def part_name(group: str, part: object) -> str:
    """The name under which a part is chosen: its registered name, or its class where the user brought it along."""
    for name, registered in parts(group).items():
        if type(part) is registered:
            return name
    return f"{type(part).__module__}.{type(part).__qualname__}"


@dataclass(frozen=True)
class Evaluate:
    """How a policy is judged on held-out prompts, or a reward model on the answers that came with them."""

    by: str = "answers"  # answers: a policy's own, against the start's; agreement: a reward model's, with the labels
    every: int = 1  # rounds; the last round is always evaluated
    scorer: Any = None  # any scorer; null: the one that training uses
    proxy: bool = True  # whether the judge of training, where it is another, judges the held-out answers too
    draw: SamplingParams = field(default_factory=lambda: SamplingParams(name="held-out", n=1))

    def __post_init__(self) -> None:
        if self.by not in ("answers", "agreement"):
            raise ValueError(
                f"evaluate.by must be answers or agreement, got {self.by!r}. rlhf-flow train-reward sets the latter."
            )
        if self.every < 1:
            raise ValueError(
                f"evaluate.every must be >= 1, got {self.every}. Use a number above `rounds` for the last only."
            )
        if self.draw.n != 1:
            raise ValueError(
                f"evaluate.draw.n must be 1, got {self.draw.n}: every held-out prompt is answered once. "
                "Try evaluate.draw.n=1, and more held-out prompts for a narrower interval."
            )


@dataclass(frozen=True)
class Resampling:
    """Whether a round whose prompts gave too few useful pairs asks further ones."""

    min_pairs: int | None = (
        None  # useful pairs that are enough; null: a round has `prompts.batch` prompts, come what may
    )
    max_batches: int = 4  # of `prompts.batch` prompts each, at most; a page is asked whole

    def __post_init__(self) -> None:
        for key, value in (("min_pairs", self.min_pairs), ("max_batches", self.max_batches)):
            if value is not None and value < 1:
                raise ValueError(f"resampling.{key} must be >= 1, got {value}. Leave it out for the default.")


@dataclass(frozen=True)
class Refresh:
    """How a judge that can be trained learns from new labels, while the policy learns from the judge."""

    every: int | None = None  # rounds between trainings, each at the end of a round; null: the judge stays as it is
    scorer: Any = None  # whose labels it is trained on: any scorer
    objective: Any = None  # what it is trained by: one of rewards
    prompts: int = 64  # of each round, whose answers are labelled
    training: Training = field(default_factory=lambda: Training(optimizer=Optimizer(lr=5e-7)))

    def __post_init__(self) -> None:
        if self.every is not None and self.every < 1:
            raise ValueError(
                f"refresh.every must be >= 1, a number of rounds, got {self.every}. Leave it out for none."
            )
        if self.prompts < 1:
            raise ValueError(f"refresh.prompts must be >= 1, got {self.prompts}. Try refresh.prompts=64.")


@dataclass(frozen=True)
class Checkpoint:
    """What is written to disk, how often, and what stays there."""

    every: int = 1  # rounds between checkpoints of the policy and the learner; the last round always has one
    steps: int | None = None  # optimizer steps between commits inside a learn stage; null: only at its end
    keep: int = 2  # checkpoints that stay, besides the best and those that the schedule still names
    prompts_per_commit: int = 64  # prompts that are sampled and scored between two commits

    def __post_init__(self) -> None:
        for key, value in (
            ("every", self.every),
            ("steps", self.steps),
            ("keep", self.keep),
            ("prompts_per_commit", self.prompts_per_commit),
        ):
            if value is not None and value < 1:
                raise ValueError(f"checkpoint.{key} must be >= 1, got {value}. Leave it out for the default.")


@dataclass(frozen=True)
class RunConfig:
    """A run. The slots of `GROUPS` hold one part each, so they are of any class that keeps the part's promise."""

    run_dir: str = "runs/default"  # the folder the run writes to; the same command again resumes it
    seed: int = 0  # of everything that is drawn
    rounds: int = 4  # of sampling, scoring and learning
    lag: int = 0  # 1: the next round is answered, by the policy of the round before, while this one is learned
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
    resampling: Resampling = field(default_factory=Resampling)
    refresh: Refresh = field(default_factory=Refresh)
    checkpoint: Checkpoint = field(default_factory=Checkpoint)
    observe: Observe = field(default_factory=Observe)

    @property
    def timeline(self) -> Lagged:
        """The schedule, under the lag: which versions each round uses."""
        return Lagged(self.schedule, self.lag)

    def __post_init__(self) -> None:
        if self.rounds < 1:
            raise ValueError(f"rounds must be >= 1, got {self.rounds}. Try rounds=1.")
        if self.lag not in (0, 1):
            raise ValueError(f"lag must be 0 or 1, got {self.lag}: answers are drawn at most one round ahead.")
        if self.seed < 0:
            raise ValueError(f"seed must be >= 0, got {self.seed}. Try seed=0.")
        if not self.run_dir.strip():
            raise ValueError("run_dir must name a folder, got an empty text. Try run_dir=runs/first.")
