"""Which pairs an optimizer step sees, and which rank computes which of them: pure bookkeeping.

A global batch is a function of the lesson alone. Ranks and micro-batches only share it out: their number changes
nothing but the order of float additions.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from rlhf_flow.seeds import derive
from rlhf_flow.types import Lesson, Pair, Table


@dataclass(frozen=True)
class Row:
    """A response behind its prompt, in tokens."""

    prompt: np.ndarray  # int32 [L]
    tokens: np.ndarray  # int32 [T]

    @property
    def length(self) -> int:
        return len(self.prompt) + len(self.tokens)


@dataclass(frozen=True)
class Example:
    """A pair with the tokens and the anchors' log-probs of both sides."""

    ids: tuple[str, str]
    rows: tuple[Row, Row]
    anchors: Mapping[str, tuple[np.ndarray, np.ndarray]]  # anchor name -> float32 [T] of first and second
    preference: float
    weight: float

    @property
    def length(self) -> int:
        return max(row.length for row in self.rows)


@dataclass(frozen=True)
class Packed:
    """Rows as one rectangle. Padding stands on the right, where a causal model's responses cannot see it."""

    tokens: np.ndarray  # int64 [R, L]
    at: (
        np.ndarray
    )  # int64 [M]: indices into tokens.flatten(), row by row, of the positions that predict response tokens
    targets: np.ndarray  # int64 [M]: the response tokens, row by row
    mask: np.ndarray  # bool [R, T]


def pack(rows: Sequence[Row]) -> Packed:
    length = max(row.length for row in rows)
    tokens = np.zeros((len(rows), length), dtype=np.int64)  # [R, L]
    mask = np.zeros((len(rows), max(len(row.tokens) for row in rows)), dtype=bool)  # [R, T]
    at = []
    for r, row in enumerate(rows):
        tokens[r, : len(row.prompt)] = row.prompt
        tokens[r, len(row.prompt) : row.length] = row.tokens
        mask[r, : len(row.tokens)] = True
        at.append(r * length + len(row.prompt) - 1 + np.arange(len(row.tokens)))  # position t - 1 predicts token t
    return Packed(tokens, np.concatenate(at), np.concatenate([row.tokens for row in rows]).astype(np.int64), mask)


def read_rows(tables: Iterable[Table], wanted: Iterable[str]) -> dict[str, Row]:
    """The rows of the wanted responses, by id. Raises KeyError for one that no table holds."""
    missing = set(wanted)
    rows: dict[str, Row] = {}
    for table in tables:
        for shard in table.read_shards(["response", "prompt_tokens", "tokens"]):
            ids = shard["response"].to_pylist()
            found = [i for i, id in enumerate(ids) if id in missing]
            part = shard.take(np.array(found, dtype=np.int64))
            for i, prompt, tokens in zip(found, part["prompt_tokens"], part["tokens"], strict=True):
                rows[ids[i]] = Row(_array(prompt.values, np.int32), _array(tokens.values, np.int32))
                missing.discard(ids[i])
    if missing:
        raise KeyError(
            f"no response {min(missing)!r} in the tables of responses ({len(missing)} of the wanted are missing)"
        )
    for id, row in rows.items():
        if len(row.prompt) == 0:
            raise ValueError(f"the prompt of response {id!r} has no tokens; a prompt needs at least one (BOS)")
    return rows


def read_examples(lesson: Lesson) -> list[Example]:
    """All pairs of the lesson with a positive weight, in the order of its tables.

    Raises KeyError naming the response and the policy where an anchor's log-probs are missing.
    """
    pairs = [pair for tables in lesson.tables for pair in _read_pairs(tables.pairs)]
    ids = {id for pair in pairs for id in (pair.first, pair.second)}
    rows = read_rows((tables.responses for tables in lesson.tables), ids)
    anchors = _read_anchors(lesson, ids)
    return [
        Example(
            ids=(pair.first, pair.second),
            rows=(rows[pair.first], rows[pair.second]),
            anchors={
                name: (
                    _anchor(anchors, rows, pair.first, policy=lesson.roles[name], name=name),
                    _anchor(anchors, rows, pair.second, policy=lesson.roles[name], name=name),
                )
                for name in sorted(lesson.objective.needs)
            },
            preference=pair.preference,
            weight=pair.weight,
        )
        for pair in pairs
    ]


def count(lesson: Lesson) -> int:
    """The number of pairs of the lesson with a positive weight."""
    return sum(
        int((np.asarray(shard["weight"]) > 0).sum())
        for tables in lesson.tables
        for shard in tables.pairs.read_shards(["weight"])
    )


def global_batches(pairs: int, *, batch: int, epochs: int, seed: int, round: int) -> list[np.ndarray]:
    """The indices of the pairs of each optimizer step: every pair once an epoch, in an order drawn for that epoch."""
    steps = []
    for epoch in range(epochs):
        order = np.random.Generator(np.random.PCG64(derive(seed, "pairs", round, epoch))).permutation(pairs)
        steps += [order[start : start + batch] for start in range(0, pairs, batch)]
    return steps


def deal(lengths: Sequence[int], *, ranks: int, micro_batch: int) -> list[list[np.ndarray]]:
    """Share out a global batch: for each micro step, each rank's positions [<= micro_batch] in the batch.

    Neighbours in length go together, so little is padded and no rank waits long. All ranks take equally many micro
    steps; a rank may get nothing in the last of them.
    """
    order = np.argsort(-np.asarray(lengths, dtype=np.int64), kind="stable")  # the longest first: memory fails at once
    wave = ranks * micro_batch
    return [[order[start : start + wave][rank::ranks] for rank in range(ranks)] for start in range(0, len(order), wave)]


def _read_pairs(table: Table) -> list[Pair]:
    columns = ["prompt", "first", "second", "preference", "weight"]
    pairs = [Pair(**row) for shard in table.read_shards(columns) for row in shard.to_pylist()]
    return [pair for pair in pairs if pair.weight > 0]


def _read_anchors(lesson: Lesson, ids: set[str]) -> dict[tuple[str, str], np.ndarray]:
    absent = sorted(lesson.objective.needs - set(lesson.roles))
    if absent:
        raise KeyError(
            f"the objective needs the anchor {absent[0]!r}; round {lesson.round} has only {sorted(lesson.roles)}"
        )
    policies = {lesson.roles[name] for name in lesson.objective.needs}
    found: dict[tuple[str, str], np.ndarray] = {}
    for shard in lesson.anchors.read_shards(["response", "policy", "logps"]):
        columns = (shard[name] for name in ("response", "policy", "logps"))
        for response, policy, logps in zip(*columns, strict=True):
            key = (response.as_py(), policy.as_py())
            if key[0] in ids and key[1] in policies:
                found[key] = _array(logps.values, np.float32)
    return found


def _anchor(
    anchors: Mapping[tuple[str, str], np.ndarray], rows: Mapping[str, Row], response: str, *, policy: str, name: str
) -> np.ndarray:
    if (response, policy) not in anchors:
        raise KeyError(f"no log-probs of response {response!r} under policy {policy!r}, which is the anchor {name!r}")
    logps = anchors[response, policy]
    if len(logps) != len(rows[response].tokens):
        raise ValueError(
            f"response {response!r} has {len(rows[response].tokens)} tokens, "
            f"but {len(logps)} log-probs under policy {policy!r}, which is the anchor {name!r}"
        )
    return logps


def _array(values: object, dtype: type) -> np.ndarray:
    return np.asarray(values, dtype=dtype)
