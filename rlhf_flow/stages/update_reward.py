"""The stages label and refresh: responses of each round are labelled, and the scorer is trained on all labels so far.

As the policy changes, its responses leave the distribution that the reward model was trained on. So online RLHF trains
it again, each time from its first checkpoint and on the labels of all rounds: Bai et al. 2022, arXiv:2204.05862, 4.5.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa

from rlhf_flow.protocols import RoundTables, Scorer, TrainingRound
from rlhf_flow.selector.all_pairs import AllPairs
from rlhf_flow.stages import read_scores
from rlhf_flow.stages.context import RewardUpdates, RunContext
from rlhf_flow.storage import parquet as rows
from rlhf_flow.storage.store import StageFacts, StageWriter, Store
from rlhf_flow.storage.tables import Table
from rlhf_flow.types import Rollouts, Scored

FOLDER = "scorer"  # in a round's folder: the scorer's checkpoint that was trained at its end
PAIRS = AllPairs(label="soft", truncated="keep")  # the scorer also has to score truncated responses


def update_reward(context: RunContext, round: int) -> None:
    """Label responses of the round and, every `reward_updates.every` rounds, train the scorer. Nothing if it is off."""
    updates = context.reward_updates
    if updates is None or round == 0:
        return
    _label(context, updates, round)
    if round % updates.every == 0:
        _retrain(context, updates, round)
        for past in range(1, round):
            context.ledger.prune(past, [FOLDER])


def last_update(store: Store, before: int) -> int:
    """The last round before this one at whose end the scorer was trained; 0 if there is none."""
    return next((past for past in range(before - 1, 0, -1) if store.committed(past, "refresh") is not None), 0)


def scorer_sha256(updates: RewardUpdates, store: Store, round: int) -> str:
    """The sha256 of the weights of the scorer that scored a round."""
    trained = last_update(store, round)
    record = store.committed(trained, "refresh") if trained else None
    return updates.start.sha256 if record is None else str(record.facts["sha256"])


class RefreshedScorer:
    """Scores each round with the checkpoint that was trained last before it."""

    def __init__(self, store: Store, opened: Callable[[Path | None], Scorer]) -> None:
        """`opened` opens the scorer of a checkpoint; of None, the scorer at the start of the run."""
        self._store = store
        self._opened = opened
        self._round = last_update(store, len(store.records))
        self._scorer = opened(self._checkpoint())

    def score(self, rollouts: Rollouts) -> Scored:
        wanted = last_update(self._store, rollouts.round)
        if wanted != self._round:
            self._scorer.close()
            self._round = wanted
            self._scorer = self._opened(self._checkpoint())
        return self._scorer.score(rollouts)

    def close(self) -> None:
        self._scorer.close()

    def _checkpoint(self) -> Path | None:
        return self._store.folder(self._round) / FOLDER if self._round else None


def _label(context: RunContext, updates: RewardUpdates, round: int) -> None:
    """Label the responses of the first prompts of the round, which are in random order."""

    def write(writer: StageWriter) -> StageFacts:
        rollouts, wins = _first_prompts(read_scores.of_round(context, round), updates.prompts)
        labels = updates.labeller.score(rollouts)
        selection = PAIRS.select(labels)
        writer.table("labels/answers", updates.read(rollouts))
        writer.table("labels/pairs", rows.from_selection(selection))
        writer.table("labels/scores", rows.from_scored(labels))
        counts = {f"label/{name.removeprefix('judge/')}": number for name, number in labels.counts.items()}
        return {**counts, "label/pairs": len(selection.pairs), **_agreement(wins, labels)}

    context.commit(round, "label", write)


def _retrain(context: RunContext, updates: RewardUpdates, round: int) -> None:
    def write(writer: StageWriter) -> StageFacts:
        training = _training_round(context, updates, round)
        learner = updates.learner()
        try:
            learner.start(updates.start)
            steps = learner.steps(training)
            metrics = learner.update(training, 0, steps) if steps else {}
            writer.save(FOLDER, learner.save_policy)
            return {"sha256": learner.publish(FOLDER, round).sha256, "steps": steps, **metrics}
        finally:
            learner.close()

    context.commit(round, "refresh", write)


def _training_round(context: RunContext, updates: RewardUpdates, round: int) -> TrainingRound:
    """The labels of all rounds so far."""
    ledger = context.ledger
    tables = [
        RoundTables(past, ledger.table(past, "label", "labels/answers"), ledger.table(past, "label", "labels/pairs"))
        for past in range(1, round + 1)
        if ledger.committed(past, "label") is not None  # rounds from before refresh.every was set have no labels
    ]
    return TrainingRound(
        round=round,
        rounds=context.rounds,
        seed=context.seed,
        tables=tuple(tables),
        anchors=Table(()),
        roles={},
        objective=updates.objective,
    )


def _first_prompts(shards: list[Scored], number: int) -> tuple[Rollouts, np.ndarray]:
    """The first prompts with their responses, and the scorer's wins [B, N, N] between these."""
    prompts = [prompt for shard in shards for prompt in shard.rollouts.prompts][:number]
    responses = [group for shard in shards for group in shard.rollouts.responses][:number]
    wins = np.concatenate([shard.wins for shard in shards])[:number]
    return replace(shards[0].rollouts, prompts=tuple(prompts), responses=tuple(responses)), wins


def _agreement(wins: np.ndarray, labels: Scored) -> dict[str, float]:
    """How often the scorer, before it is trained on the labels, prefers the labelled winner; a tie counts 1/2.

    Measures the scorer on responses of the present policy. Absent if no label names a winner.
    """
    i, j = np.triu_indices(wins.shape[1], k=1)
    scored, labelled = np.sign(wins[:, i, j] - 0.5), np.sign(labels.wins[:, i, j] - 0.5)  # [B, N (N - 1) / 2]
    decided = ~np.isnan(scored) & (np.abs(labelled) == 1)
    return {"label/agreement": float((1 + scored * labelled)[decided].mean() / 2)} if decided.any() else {}


def as_read(ids: list[str], views: list[tuple[int, ...]]) -> pa.Table:
    """Conversations in the scorer's tokens, as a learner reads them: the first token is the prompt."""
    tokens = pa.list_(pa.int32())
    return pa.table(
        {
            "response": pa.array(ids, pa.string()),
            "prompt_tokens": pa.array([view[:1] for view in views], tokens),
            "tokens": pa.array([view[1:] for view in views], tokens),
        }
    )
