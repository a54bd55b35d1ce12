"""Sampling and scoring: prompts finish in any order, chunks are committed in theirs, and both work at the same time."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from threading import Event

import pytest

from rlhf_flow.types import Policy, Prompt, Rollouts, SamplingParams, Scored
from tests.stages.test_prefetch import files
from tests.support import toy

WAIT = 60  # seconds, longer than any wait that ends


class Streaming(toy.Engine):
    """Finishes the last prompt first, one at a time; records which prompts it was asked for."""

    def __init__(self) -> None:
        self.asked: list[tuple[int, list[str]]] = []

    def stream(
        self, prompts: Sequence[Prompt], policy: Policy, draw: SamplingParams, *, round: int, seed: int
    ) -> Iterator[Rollouts]:
        self.asked.append((round, [prompt.id for prompt in prompts]))
        for prompt in self.order(prompts):
            yield self.generate([prompt], policy, draw, round=round, seed=seed)

    def order(self, prompts: Sequence[Prompt]) -> Sequence[Prompt]:
        return prompts[::-1]


@pytest.mark.parametrize("overlap", [False, True])
def test_the_order_in_which_prompts_finish_changes_no_file(overlap: bool, tmp_path: Path) -> None:
    toy.run(tmp_path / "run", rounds=2, engine=Streaming(), scores_while_sampling=overlap)
    toy.run(tmp_path / "other", rounds=2)
    assert files(tmp_path / "run") == files(tmp_path / "other")


def test_a_round_is_one_call_whatever_the_size_of_its_chunks(tmp_path: Path) -> None:
    engine = Streaming()
    toy.run(tmp_path / "run", rounds=1, engine=engine)
    assert [len(prompts) for round, prompts in engine.asked if round == 1] == [4]
    assert len(list((tmp_path / "run/rounds/00001/stages").glob("sample.0*.json"))) == 2


class Patient(Streaming):
    """Finishes the last chunk only once the first one is scored."""

    def __init__(self, scored: Event) -> None:
        super().__init__()
        self.scored = scored

    def order(self, prompts: Sequence[Prompt]) -> Iterator[Prompt]:
        for number, prompt in enumerate(prompts):
            if number == 2:
                assert self.scored.wait(WAIT), "nothing is scored while other prompts are sampled"
            yield prompt


class Telling(toy.HigherIsBetter):
    def __init__(self, scored: Event) -> None:
        self.scored = scored

    def score(self, rollouts: Rollouts) -> Scored:
        if rollouts.round == 1:
            self.scored.set()
        return super().score(rollouts)


def test_a_chunk_is_scored_while_the_next_one_is_sampled(tmp_path: Path) -> None:
    scored = Event()
    toy.run(tmp_path / "run", rounds=1, engine=Patient(scored), scorer=Telling(scored), scores_while_sampling=True)
    toy.run(tmp_path / "other", rounds=1)
    assert files(tmp_path / "run") == files(tmp_path / "other")


class Failing(Streaming):
    """Fails after the first chunk of round 1."""

    def order(self, prompts: Sequence[Prompt]) -> Iterator[Prompt]:
        yield from prompts[:2]
        raise ArithmeticError("no answer")


@pytest.mark.parametrize("overlap", [False, True])
def test_chunks_that_were_committed_are_not_sampled_again(overlap: bool, tmp_path: Path) -> None:
    with pytest.raises(ArithmeticError, match="no answer"):
        toy.run(tmp_path / "run", rounds=1, engine=Failing(), scores_while_sampling=overlap)
    assert (tmp_path / "run/rounds/00001/stages/sample.00000.json").exists()
    engine = Streaming()
    toy.run(tmp_path / "run", rounds=1, engine=engine, scores_while_sampling=overlap)
    assert [len(prompts) for round, prompts in engine.asked if round == 1] == [2]
    toy.run(tmp_path / "whole", rounds=1)
    assert files(tmp_path / "run") == files(tmp_path / "whole")


class Endless(Streaming):
    """Samples on until the scorer has failed."""

    def __init__(self, failed: Event) -> None:
        super().__init__()
        self.failed = failed

    def order(self, prompts: Sequence[Prompt]) -> Iterator[Prompt]:
        yield from prompts[:2]
        assert self.failed.wait(WAIT)
        yield from prompts[2:]


class Refusing(toy.HigherIsBetter):
    def __init__(self, failed: Event) -> None:
        self.failed = failed

    def score(self, rollouts: Rollouts) -> Scored:
        if rollouts.round == 1:
            self.failed.set()
            raise LookupError("no verdict")
        return super().score(rollouts)


def test_the_error_of_a_scorer_ends_the_run_with_what_was_sampled(tmp_path: Path) -> None:
    failed = Event()
    with pytest.raises(LookupError, match="no verdict"):
        toy.run(tmp_path / "run", engine=Endless(failed), scorer=Refusing(failed), scores_while_sampling=True)
    assert (tmp_path / "run/rounds/00001/stages/sample.00000.json").exists()
    assert not (tmp_path / "run/rounds/00001/stages/score.00000.json").exists()
