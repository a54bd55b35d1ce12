"""Reads the committed rounds of a run: answers by their id, scores, pairs and labels."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rlhf_flow.stages.policies import GIVEN, PAIRS
from rlhf_flow.stages.read_scores import origins, scored
from rlhf_flow.storage.run_policies import check_run, closed_rounds
from rlhf_flow.types import Scored

Messages = list[dict[str, str]]  # [{role, content}, ...]


@dataclass(frozen=True)
class Answer:
    """A response of the run."""

    id: str
    prompt: str  # id
    messages: Messages  # of the prompt
    text: str
    source: str
    policy: str  # sha256 of the policy that sampled it

    @property
    def turn(self) -> Messages:
        """The answer as the assistant's message."""
        return [{"role": "assistant", "content": self.text}]


class RunData:
    """The rounds of a run that selected pairs. Held-out prompts are in none of them."""

    def __init__(self, run: Path) -> None:
        """Raises ValueError if the folder holds no run."""
        self.run = run
        self._ledger = check_run(run)
        self.rounds = [round for round in closed_rounds(run) if round and self._ledger.committed(round, "select")]

    def pairs(self, round: int) -> Iterator[dict[str, Any]]:
        """The rows of the pairs that a round trained on."""
        for shard in self._ledger.table(round, "select", PAIRS).read_shards():
            yield from shard.to_pylist()

    def answers(self, round: int) -> dict[str, Answer]:
        """By id: the answers of the round, of the earlier rounds whose labels arrived in it, and given ones."""
        columns = ["response", "prompt", "messages", "text", "source", "policy"]
        sampled = [self._ledger.table(each, "sample") for each in (round, *self._late(round))]
        found: dict[str, Answer] = {}
        for table in (*sampled, self._ledger.table(round, "select", GIVEN)):
            for shard in table.read_shards(columns):
                for row in shard.to_pylist():
                    messages = json.loads(row["messages"])
                    found[row["response"]] = Answer(
                        row["response"], row["prompt"], messages, row["text"], row["source"], row["policy"]
                    )
        return found

    def utilities(self, round: int) -> dict[str, float]:
        """By id of the response: the scorer's utility, NaN if it gave none."""
        tables = [self._ledger.table(each, "score") for each in (round, *self._late(round))]
        if self._late(round):
            tables.append(self._ledger.table(round, "late"))
        columns = ["response", "utility"]
        shards = (shard for table in tables for shard in table.read_shards(columns))
        return {row["response"]: row["utility"] for shard in shards for row in shard.to_pylist()}

    def scored(self, round: int) -> Iterator[Scored]:
        """The scores of the round's answers."""
        return scored(self._ledger, round, self._ledger.table(round, "score"))

    def late(self, round: int) -> Iterator[Scored]:
        """The labels of earlier rounds that arrived in this one; other verdicts are unknown in them."""
        for origin in self._late(round):
            yield from scored(self._ledger, origin, self._ledger.table(round, "late", f"late/{origin:05d}-"))

    def _late(self, round: int) -> list[int]:
        record = self._ledger.committed(round, "late")
        return [] if record is None else origins(record)
