"""Which pairs an optimizer step sees, and which rank computes which of them: pure bookkeeping.

A global batch is a function of the lesson alone. Ranks and micro-batches only share it out: their number changes
nothing but the order of float additions.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from rlhf_flow.seeds import derive
from rlhf_flow.storage.tables import RoundTables, Table, TrainingRound
from rlhf_flow.types import Pair


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
    """A pair with the tokens and the anchors' log-probs of both sides, and of its third response where it has one."""

    ids: tuple[str, ...]  # of first, second, extra
    rows: tuple[Row, ...]
    anchors: Mapping[str, tuple[np.ndarray, ...]]  # anchor name -> [T] of first, second, extra
    preference: float
    weight: float
    worth: tuple[float, float] | None = None

    @property
    def length(self) -> int:
        return max(row.length for row in self.rows)


@dataclass(frozen=True)
class Packed:
    """Rows as one rectangle. Padding stands on the right, where a causal model's responses cannot see it."""

    tokens: np.ndarray  # int64 [R, L], or fewer lines where rows share one
    at: (
        np.ndarray
    )  # int64 [M]: indices into tokens.flatten(), row by row, of the positions that predict response tokens
    targets: np.ndarray  # int64 [M]: the response tokens, row by row
    mask: np.ndarray  # bool [R, T]: where what is read of each row stands


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


def pack_policy(rows: Sequence[Row]) -> Packed:
    """The same, with rows that differ in their last token alone in one line: no position reads it.

    That is so of answers of one token to the same prompt, such as two letters behind a question.
    """
    read = [(row.prompt.tobytes(), row.tokens[:-1].tobytes()) for row in rows]
    line = {each: number for number, each in enumerate(dict.fromkeys(read))}
    if len(line) == len(rows):
        return pack(rows)
    whole = pack(rows)
    kept = [read.index(each) for each in line]
    shift = np.array([line[each] - r for r, each in enumerate(read)]) * whole.tokens.shape[1]  # [R]
    at = whole.at + np.repeat(shift, [len(row.tokens) for row in rows])
    return Packed(whole.tokens[kept], at, whole.targets, whole.mask)


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


def read_examples(lesson: TrainingRound) -> list[Example]:
    """All pairs of the lesson with a positive weight, in the order of its tables.

    Raises KeyError naming the response and the policy where an anchor's log-probs are missing, and ValueError for a
    pair without the third response that the objective reads.
    """
    third = lesson.objective.needs.extra is not None
    pairs = [pair if third else replace(pair, extra=None) for tables in lesson.tables for pair in read_pairs(tables)]
    if third and (lacking := [pair for pair in pairs if pair.extra is None]):
        raise ValueError(
            f"the objective needs a third response beside each pair, and the pair of {lacking[0].first!r} and "
            f"{lacking[0].second!r} has none ({len(lacking)} of {len(pairs)} pairs). Set selector.extra."
        )
    ids = {id for pair in pairs for id in named(pair)}
    rows = read_rows((tables.responses for tables in lesson.tables), ids)
    anchors = read_anchors(lesson, ids)
    return [
        Example(
            ids=named(pair),
            rows=tuple(rows[id] for id in named(pair)),
            anchors={
                name: tuple(_anchor(anchors, rows, id, policy=lesson.roles[name], name=name) for id in named(pair))
                for name in sorted(lesson.objective.needs.anchors)
            },
            preference=pair.preference,
            weight=pair.weight,
            worth=pair.worth,
        )
        for pair in pairs
    ]


def count(lesson: TrainingRound) -> int:
    """The number of pairs of the lesson with a positive weight."""
    rounds = [tables for tables in lesson.tables if tables.pairs.rows]
    return sum(int((np.asarray(tables.read_pairs(["weight"])["weight"]) > 0).sum()) for tables in rounds)


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


def read_pairs(tables: RoundTables) -> list[Pair]:
    """The pairs of a round that are learned from, with a positive weight."""
    columns = ["prompt", "first", "second", "preference", "weight", "worth", "extra"]
    rows = tables.read_pairs(columns).to_pylist() if tables.pairs.rows else []
    return [
        Pair(**row | {"worth": None if row["worth"] is None else tuple(row["worth"])})
        for row in rows
        if row["weight"] > 0
    ]


def named(pair: Pair) -> tuple[str, ...]:
    """The responses of a pair: first, second, and the third where there is one."""
    return (pair.first, pair.second) if pair.extra is None else (pair.first, pair.second, pair.extra)


def read_anchors(lesson: TrainingRound, ids: set[str]) -> dict[tuple[str, str], np.ndarray]:
    """The log-probs [T] of these responses under every anchor, by (response, policy)."""
    needed = lesson.objective.needs.anchors
    absent = sorted(needed - set(lesson.roles))
    if absent:
        raise KeyError(
            f"the objective needs the anchor {absent[0]!r}; round {lesson.round} has only {sorted(lesson.roles)}"
        )
    policies = {lesson.roles[name] for name in needed}
    found: dict[tuple[str, str], np.ndarray] = {}
    for shard in lesson.anchors.read_shards(["response", "policy", "logps"]):
        columns = (shard[name] for name in ("response", "policy", "logps"))
        for response, policy, logps in zip(*columns, strict=True):
            key = (response.as_py(), policy.as_py())
            if key[0] in ids and key[1] in policies:
                found[key] = np.asarray(logps.values)
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
