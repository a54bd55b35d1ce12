"""Reads the committed rounds of a run: answers by their id, scores, pairs and labels."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from rlhf_flow.export.provenance import provenance
from rlhf_flow.stages.policies import GIVEN, PAIRS
from rlhf_flow.stages.read_scores import origins
from rlhf_flow.storage import parquet
from rlhf_flow.storage.ledger import Ledger
from rlhf_flow.storage.run_policies import check_run, closed_rounds
from rlhf_flow.storage.tables import Table
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


class Rounds:
    """The rounds of a run that are exported, in order. Held-out prompts are in none of them."""

    def __init__(self, run: Path, wanted: str | None = None) -> None:
        """`wanted`: such as 1-3,5; None: all. Raises ValueError if the folder holds no run, or lacks a wanted round."""
        self.run = run
        self.provenance = provenance(run)
        self.ledger: Ledger = check_run(run)
        trained = [round for round in closed_rounds(run) if round and self.ledger.committed(round, "select")]
        self.numbers = trained if wanted is None else _chosen(wanted, trained)

    def pairs(self, round: int) -> Iterator[dict[str, object]]:
        """The rows of the pairs that a round trained on."""
        for shard in self.ledger.table(round, "select", PAIRS).read_shards():
            yield from shard.to_pylist()

    def answers(self, round: int) -> dict[str, Answer]:
        """By id: the answers of the round, of the earlier rounds whose labels arrived in it, and given ones."""
        columns = ["response", "prompt", "messages", "text", "source", "policy"]
        sampled = [self.ledger.table(each, "sample") for each in (round, *self._late(round))]
        found: dict[str, Answer] = {}
        for table in (*sampled, self.ledger.table(round, "select", GIVEN)):
            for shard in table.read_shards(columns):
                for row in shard.to_pylist():
                    messages = json.loads(row["messages"])
                    found[row["response"]] = Answer(
                        row["response"], row["prompt"], messages, row["text"], row["source"], row["policy"]
                    )
        return found

    def utilities(self, round: int) -> dict[str, float]:
        """By id of the response: the scorer's utility, NaN if it gave none."""
        tables = [self.ledger.table(each, "score") for each in (round, *self._late(round))]
        if self._late(round):
            tables.append(self.ledger.table(round, "late"))
        columns = ["response", "utility"]
        shards = (shard for table in tables for shard in table.read_shards(columns))
        return {row["response"]: row["utility"] for shard in shards for row in shard.to_pylist()}

    def scored(self, round: int) -> Iterator[Scored]:
        """The scores of the round's answers."""
        yield from self._scored(round, self.ledger.table(round, "score"))

    def late(self, round: int) -> Iterator[Scored]:
        """The labels of earlier rounds that arrived in this one; other verdicts are unknown in them."""
        for origin in self._late(round):
            yield from self._scored(origin, self.ledger.table(round, "late", f"late/{origin:05d}-"))

    def _scored(self, round: int, scores: Table) -> Iterator[Scored]:
        answers = self.ledger.table(round, "sample").read_shards()
        for shard, responses in zip(scores.read_shards(), answers, strict=True):
            yield parquet.to_scored(shard, parquet.to_rollouts(responses))

    def _late(self, round: int) -> list[int]:
        record = self.ledger.committed(round, "late")
        return [] if record is None else origins(record)


def _chosen(wanted: str, known: list[int]) -> list[int]:
    chosen: set[int] = set()
    for part in wanted.split(","):
        if not (found := re.fullmatch(r"(\d+)(?:-(\d+))?", part.strip())):
            raise ValueError(f"--rounds={wanted}: {part!r} is no round. Fix: write numbers and ranges, as in 1-3,5.")
        chosen |= set(range(int(found[1]), int(found[2] or found[1]) + 1))
    if missing := sorted(chosen - set(known)):
        have = f"{known[0]} to {known[-1]}" if known else "none"
        raise ValueError(f"--rounds={wanted}: round {missing[0]} has no pairs; the run has {have}. Fix: name others.")
    return sorted(chosen)
