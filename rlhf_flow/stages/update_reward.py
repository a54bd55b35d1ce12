"""The judge learns too: somebody labels answers of the round, and every few rounds it is trained on all labels so far.

The policy leaves the answers that its judge was trained on, so online RLHF trains the judge again, each time from the
checkpoint that it was at first and on the labels of all rounds: Bai et al. 2022, arXiv:2204.05862, sec. 4.5.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa

from rlhf_flow.protocols import Scorer
from rlhf_flow.selector.all_pairs import AllPairs
from rlhf_flow.stages import read_scores as judged
from rlhf_flow.stages.context import RewardUpdates, RunContext
from rlhf_flow.storage import parquet as rows
from rlhf_flow.storage.store import StageFacts, StageWriter, Store
from rlhf_flow.storage.tables import RoundTables, Table, TrainingRound
from rlhf_flow.types import Rollouts, Scored

FOLDER = "scorer"  # of a round's folder: the checkpoint of the judge that was trained at its end
PAIRS = AllPairs(label="soft", truncated="keep")  # a judge of whole answers has to judge cut ones too


def refresh(parts: RunContext, round: int) -> None:
    """Two stages at the end of a round: `label`, and `refresh` where it is due. None where judges stay as they are."""
    refreshing = parts.refreshing
    if refreshing is None or round == 0:
        return
    _label(parts, refreshing, round)
    if round % refreshing.every == 0:
        _retrain(parts, refreshing, round)
        for past in range(1, round):
            parts.ledger.prune(past, [FOLDER])


def newest(store: Store, before: int) -> int:
    """The last round before this one at whose end the judge was trained; 0 where there is none."""
    return next((past for past in range(before - 1, 0, -1) if store.entry(past, "refresh") is not None), 0)


def judge_of(refreshing: RewardUpdates, store: Store, round: int) -> str:
    """The identity of the judge that scored a round: sha256 of its weights."""
    trained = newest(store, round)
    entry = store.entry(trained, "refresh") if trained else None
    return refreshing.start.sha256 if entry is None else str(entry.facts["sha256"])


class RefreshedScorer:
    """The judge of a round: whichever was trained last before it."""

    def __init__(self, store: Store, opened: Callable[[Path | None], Scorer]) -> None:
        """`opened` gives the judge of a checkpoint; of None, as the run found it."""
        self._store = store
        self._opened = opened
        self._round = newest(store, len(store.records))
        self._scorer = opened(self._folder())

    def score(self, rollouts: Rollouts) -> Scored:
        """Scores by the judge of the round that the answers are of."""
        wanted = newest(self._store, rollouts.round)
        if wanted != self._round:
            self._scorer.close()
            self._round = wanted
            self._scorer = self._opened(self._folder())
        return self._scorer.score(rollouts)

    def close(self) -> None:
        self._scorer.close()

    def _folder(self) -> Path | None:
        return self._store.folder(self._round) / FOLDER if self._round else None


def _label(parts: RunContext, refreshing: RewardUpdates, round: int) -> None:
    """Labels of the first prompts of the round: its prompts are in an order drawn for it."""

    def write(shelf: StageWriter) -> StageFacts:
        rollouts, thought = _first(judged.in_round(parts, round), refreshing.prompts)
        labels = refreshing.labeller.score(rollouts)
        shelf.table("labels/answers", refreshing.read(rollouts))
        shelf.table("labels/pairs", rows.from_selection(selection := PAIRS.select(labels)))
        shelf.table("labels/scores", rows.from_scored(labels))
        counts = {f"label/{name.removeprefix('judge/')}": number for name, number in labels.counts.items()}
        return {**counts, "label/pairs": len(selection.pairs), **_agreement(thought, labels)}

    parts.progress(round, "label", 0, 1, "rounds")
    parts.ledger.commit(round, "label", write)
    parts.progress(round, "label", 1, 1, "rounds")


def _retrain(parts: RunContext, refreshing: RewardUpdates, round: int) -> None:
    def write(shelf: StageWriter) -> StageFacts:
        lesson = _lesson(parts, refreshing, round)
        learner = refreshing.learner()
        try:
            learner.start(refreshing.start)
            steps = learner.steps(lesson)
            metrics = learner.update(lesson, 0, steps) if steps else {}
            learner.save_policy(shelf.folder(FOLDER))
            return {"sha256": learner.publish(FOLDER, round).sha256, "steps": steps, **metrics}
        finally:
            learner.close()

    parts.progress(round, "refresh", 0, 1, "rounds")
    parts.ledger.commit(round, "refresh", write)
    parts.progress(round, "refresh", 1, 1, "rounds")


def _lesson(parts: RunContext, refreshing: RewardUpdates, round: int) -> TrainingRound:
    """The labels of all rounds so far."""
    tables = []
    for past in range(1, round + 1):
        labelled = parts.ledger.entry(past, "label")
        if labelled is not None:  # the rounds before a run was told to label have none
            answers, pairs, _ = parts.ledger.table(past, labelled).shards  # in the order of their names
            tables.append(RoundTables(past, Table((answers,)), Table((pairs,))))
    return TrainingRound(
        round=round,
        rounds=parts.rounds,
        seed=parts.seed,
        tables=tuple(tables),
        anchors=Table(()),
        roles={},
        objective=refreshing.objective,
    )


def _first(shards: list[Scored], number: int) -> tuple[Rollouts, np.ndarray]:
    """So many prompts with their answers, and the wins [B, N, N] that the round's own judge saw between them."""
    first = shards[0].rollouts
    prompts = [prompt for shard in shards for prompt in shard.rollouts.prompts][:number]
    responses = [group for shard in shards for group in shard.rollouts.responses][:number]
    wins = np.concatenate([shard.wins for shard in shards])[:number]
    return replace(first, prompts=tuple(prompts), responses=tuple(responses)), wins


def _agreement(thought: np.ndarray, labels: Scored) -> dict[str, float]:
    """How often the round's judge names the winner that the labels name, before it learns them; 1/2 where it ties.

    The one measure of a judge on answers of the present policy. Absent where no label names a winner.
    """
    i, j = np.triu_indices(thought.shape[1], k=1)
    said, told = np.sign(thought[:, i, j] - 0.5), np.sign(labels.wins[:, i, j] - 0.5)  # [B, N (N - 1) / 2]
    decided = ~np.isnan(said) & (np.abs(told) == 1)
    return {"label/agreement": float((1 + said * told)[decided].mean() / 2)} if decided.any() else {}


def as_read(ids: list[str], views: list[tuple[int, ...]]) -> pa.Table:
    """Conversations in the tokens of the judge, as a learner reads them: the first token as the prompt."""
    tokens = pa.list_(pa.int32())
    return pa.table(
        {
            "response": pa.array(ids, pa.string()),
            "prompt_tokens": pa.array([view[:1] for view in views], tokens),
            "tokens": pa.array([view[1:] for view in views], tokens),
        }
    )
