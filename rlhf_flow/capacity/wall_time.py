"""How long rounds will take, by a run that is done: what each stage took there, times how much more there is to do."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from statistics import median

from rlhf_flow.capacity.model_shape import Shape, shape_of
from rlhf_flow.capacity.workload import Work
from rlhf_flow.config.compose import from_yaml
from rlhf_flow.config.schema import RunConfig

ANSWERS = ("sample", "score")  # stages that take longer for more answers
PAIRS = ("anchor", "learn")  # and for more pairs
OF_WEIGHTS = ("sample", "anchor", "learn")  # and for more weights, in proportion
BESIDE = ("mismatch", "select", "anchor", "learn", "publish")  # while these are done, lag=1 does `ANSWERS`


@dataclass(frozen=True)
class Seconds:
    """By stage, for a round; on the same machine."""

    stages: Mapping[str, float]
    run: str
    rounds: int
    ahead: bool = False  # whether answers are drawn while others are learned from

    @property
    def round(self) -> float:
        whole = sum(self.stages.values())
        return whole - min(self._of(ANSWERS), self._of(BESIDE)) if self.ahead else whole

    def _of(self, stages: tuple[str, ...]) -> float:
        return sum(self.stages.get(stage, 0.0) for stage in stages)

    @property
    def total(self) -> float:
        return self.round * self.rounds


def seconds(config: RunConfig, shape: Shape, work: Work, run: Path) -> Seconds:
    """Raises ValueError where the folder is none of a run, or no round of it is complete."""
    try:
        lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
        then = from_yaml((run / "config.yaml").read_text())
    except OSError as error:
        raise ValueError(f"--like {run} must be the folder of a run: {error}") from error
    rounds = [line for line in lines if line["round"] > 0 and "seconds/learn" in line]
    if not rounds:
        raise ValueError(f"--like {run} has no complete round yet. Let it do one, or name another run.")
    heavier = shape.parameters / _parameters(then, otherwise=shape.parameters)
    more = {
        "answers": work.answers_scored / _mean(rounds, "responses/sampled", otherwise=work.answers_scored),
        "pairs": work.pairs_learned
        * config.learner.training.epochs
        / _mean(rounds, "train/pairs", otherwise=work.pairs_learned * config.learner.training.epochs),
    }
    stages = {}
    for key in sorted(
        {key for line in rounds for key in line if key.startswith("seconds/") and key != "seconds/round"}
    ):
        stage = key.removeprefix("seconds/")
        scale = more["answers"] if stage in ANSWERS else more["pairs"] if stage in PAIRS else 1.0
        scale *= heavier if stage in OF_WEIGHTS else 1.0
        stages[stage] = scale * median(line[key] for line in rounds if key in line)
    return Seconds(stages, str(run), config.rounds, ahead=config.lag == 1 and config.cluster.disaggregated)


def _parameters(then: RunConfig, *, otherwise: int) -> int:
    try:
        return shape_of(then.model.path, trust_remote_code=then.model.trust_remote_code).parameters
    except ValueError:  # the model has gone
        return otherwise


def _mean(rounds: list[dict[str, float]], key: str, *, otherwise: float) -> float:
    found = [line[key] for line in rounds if line.get(key)]
    return sum(found) / len(found) if found else max(otherwise, 1)
