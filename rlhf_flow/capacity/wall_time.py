"""The wall time of rounds: the time of each stage in a finished run, scaled by the work."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from statistics import median

from rlhf_flow.capacity.model_shape import Shape, shape_of
from rlhf_flow.capacity.workload import Work
from rlhf_flow.config.schema import RunConfig
from rlhf_flow.config.stored import stored
from rlhf_flow.system.errors import ConfigError

ANSWERS = ("sample", "score")  # stages whose time grows with the answers
PAIRS = ("anchor", "learn")  # stages whose time grows with the pairs
OF_WEIGHTS = ("sample", "anchor", "learn")  # stages whose time grows with the model
OVERLAPPING = ("mismatch", "select", "anchor", "learn", "publish")  # stages that lag=1 runs alongside `ANSWERS`


@dataclass(frozen=True)
class Seconds:
    """Seconds of a round by stage, on the machine of the other run."""

    stages: Mapping[str, float]
    run: str
    rounds: int
    ahead: bool = False  # whether the next round is sampled while this one is trained

    @property
    def round(self) -> float:
        total = sum(self.stages.values())
        return total - min(self._of(ANSWERS), self._of(OVERLAPPING)) if self.ahead else total

    def _of(self, stages: tuple[str, ...]) -> float:
        return sum(self.stages.get(stage, 0.0) for stage in stages)

    @property
    def total(self) -> float:
        return self.round * self.rounds


def seconds(config: RunConfig, shape: Shape, work: Work, run: Path) -> Seconds:
    """Raises ValueError if `run` is not the folder of a run with a complete round."""
    try:
        lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
        then = stored(run)
    except OSError as error:
        raise ValueError(f"--like {run} must be the folder of a run: {error}") from error
    rounds = [line for line in lines if line["round"] > 0 and "seconds/learn" in line]
    if not rounds:
        raise ConfigError(f"--like {run} has no complete round", "wait for one, or give another run")
    pairs = work.pairs_learned * config.learner.training.epochs
    weights = shape.parameters / _parameters(then, default=shape.parameters)
    answers_scale = work.answers_scored / _mean(rounds, "responses/sampled", default=work.answers_scored)
    pairs_scale = pairs / _mean(rounds, "train/pairs", default=pairs)
    stages = {}
    keys = {key for line in rounds for key in line if key.startswith("seconds/") and key != "seconds/round"}
    for key in sorted(keys):
        stage = key.removeprefix("seconds/")
        scale = answers_scale if stage in ANSWERS else pairs_scale if stage in PAIRS else 1.0
        scale *= weights if stage in OF_WEIGHTS else 1.0
        stages[stage] = scale * median(line[key] for line in rounds if key in line)
    return Seconds(stages, str(run), config.rounds, ahead=config.lag == 1 and config.cluster.disaggregated)


def _parameters(then: RunConfig, *, default: int) -> int:
    try:
        return shape_of(then.model.path, trust_remote_code=then.model.trust_remote_code).parameters
    except ValueError:  # the checkpoint no longer exists
        return default


def _mean(rounds: list[dict[str, float]], key: str, *, default: float) -> float:
    found = [line[key] for line in rounds if line.get(key)]
    return sum(found) / len(found) if found else max(default, 1)
