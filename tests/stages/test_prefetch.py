"""One round ahead: who answers is the plan's alone, and what runs side by side ends, fails and resumes as one."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from hashlib import sha256
from pathlib import Path
from threading import Event

import pyarrow.parquet as pq
import pytest

from rlhf_flow.protocols import TrainingRound
from rlhf_flow.types import Policy, Prompt, Rollouts, SamplingParams
from tests.support import toy

pytestmark = pytest.mark.slow

WAIT = 30.0  # seconds until a meeting that does not happen has failed


def files(root: Path) -> dict[str, str]:
    found = sorted(path for path in root.glob("rounds/*/*/*") if path.parent.name != "stages")
    return {str(path.relative_to(root)): sha256(path.read_bytes()).hexdigest() for path in found}


def answers(root: Path, round: int) -> dict[str, set]:
    tables = [pq.read_table(path) for path in sorted((root / f"rounds/{round:05d}/responses").glob("*.parquet"))]
    return {
        column: {value for table in tables for value in table[column].to_pylist()} for column in ("policy", "staleness")
    }


def test_a_round_is_answered_by_the_policy_of_two_rounds_before(tmp_path: Path) -> None:
    records = toy.run(tmp_path, rounds=4, lag=1).ledger.records
    for record in records[1:]:
        drawer = records[max(0, record.round - 2)].policy
        old = min(1, record.round - 1)
        assert answers(tmp_path, record.round) == {"policy": {drawer}, "staleness": {old}}
        assert record.plan["samplers"]["policy"] == drawer
        assert record.plan["init"] == records[record.round - 1].policy
        assert record.metrics["staleness/max"] == old
        assert "seconds/round" in record.metrics


def test_side_by_side_or_one_after_the_other_is_the_same(tmp_path: Path) -> None:
    toy.run(tmp_path / "apart", rounds=4, lag=1)
    toy.run(tmp_path / "together", rounds=4, lag=1, disaggregated=False)
    assert files(tmp_path / "apart") == files(tmp_path / "together") != {}


@pytest.mark.parametrize("every", [1, 3])
def test_a_run_that_stopped_and_goes_on_is_as_if_it_had_not(every: int, tmp_path: Path) -> None:
    toy.run(tmp_path / "whole", rounds=5, lag=1, every=every)
    toy.run(tmp_path / "parts", rounds=2, lag=1, every=every)
    toy.run(tmp_path / "parts", rounds=5, lag=1, every=every)
    finals = [json.loads((tmp_path / name / "final.json").read_text())["sha256"] for name in ("parts", "whole")]
    assert finals[0] == finals[1]


class Waiting(toy.Learner):
    """Learns a round only once somebody has begun to answer the next."""

    def __init__(self, begun: list[Event]) -> None:
        super().__init__()
        self.begun = begun

    def update(self, lesson: TrainingRound, first: int, last: int) -> Mapping[str, float]:
        if lesson.round < lesson.rounds:
            assert self.begun[lesson.round + 1].wait(WAIT), f"nobody answers while round {lesson.round} is learned"
        return super().update(lesson, first, last)


class Telling(toy.Engine):
    """Says when it has begun to answer a round of training."""

    def __init__(self, begun: list[Event]) -> None:
        self.begun = begun

    def generate(
        self, prompts: Sequence[Prompt], policy: Policy, draw: SamplingParams, *, round: int, seed: int
    ) -> Rollouts:
        if draw == toy.Sampler().draw:
            self.begun[round].set()
        return super().generate(prompts, policy, draw, round=round, seed=seed)


def test_the_next_round_is_answered_while_this_one_is_learned(tmp_path: Path) -> None:
    begun = [Event() for _ in range(4)]
    toy.run(tmp_path / "run", rounds=3, lag=1, engine=Telling(begun), learner=Waiting(begun))
    toy.run(tmp_path / "other", rounds=3, lag=1)
    assert files(tmp_path / "run") == files(tmp_path / "other")


class Failing(toy.Engine):
    """Fails in a round that is looked ahead at."""

    def generate(
        self, prompts: Sequence[Prompt], policy: Policy, draw: SamplingParams, *, round: int, seed: int
    ) -> Rollouts:
        if round == 3 and draw == toy.Sampler().draw:
            raise ArithmeticError("no answer")
        return super().generate(prompts, policy, draw, round=round, seed=seed)


def test_a_failure_ahead_is_raised_once_the_round_is_learned(tmp_path: Path) -> None:
    with pytest.raises(ArithmeticError, match="no answer"):
        toy.run(tmp_path / "run", rounds=4, lag=1, engine=Failing())
    assert (tmp_path / "run/rounds/00002/stages/publish.json").exists()
    toy.run(tmp_path / "run", rounds=4, lag=1)
    toy.run(tmp_path / "whole", rounds=4, lag=1)
    assert files(tmp_path / "run") == files(tmp_path / "whole")


class Broken(toy.Learner):
    """Fails in round 2, as soon as somebody has begun to answer round 3."""

    def __init__(self, begun: Event, failed: Event) -> None:
        super().__init__()
        self.begun, self.failed = begun, failed

    def steps(self, lesson: TrainingRound) -> int:
        if lesson.round == 2:
            assert self.begun.wait(WAIT)
            self.failed.set()
            raise FloatingPointError("the loss is not finite")
        return super().steps(lesson)


class Slow(toy.Engine):
    """Answers round 3 only once the learner has failed."""

    def __init__(self, begun: Event, failed: Event) -> None:
        self.begun, self.failed = begun, failed

    def generate(
        self, prompts: Sequence[Prompt], policy: Policy, draw: SamplingParams, *, round: int, seed: int
    ) -> Rollouts:
        if round == 3:
            self.begun.set()
            assert self.failed.wait(WAIT)
        return super().generate(prompts, policy, draw, round=round, seed=seed)


def test_when_the_learner_fails_nobody_answers_for_it_any_more(tmp_path: Path) -> None:
    begun, failed = Event(), Event()
    with pytest.raises(FloatingPointError, match="not finite"):
        toy.run(tmp_path, rounds=4, lag=1, engine=Slow(begun, failed), learner=Broken(begun, failed))
    assert not (tmp_path / "rounds/00003/stages/sample.json").exists()
