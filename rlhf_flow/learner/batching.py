"""Which pairs are in the batch of an optimizer step, and which rank computes which of them.

A global batch depends on the training round only. Ranks and micro-batches split it: their number changes nothing but
the order of float additions.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from rlhf_flow.protocols import RoundTables, TrainingRound
from rlhf_flow.seeds import derive
from rlhf_flow.storage.tables import Table
from rlhf_flow.types import Pair


@dataclass(frozen=True)
class Row:
    """A prompt and a response, in tokens."""

    prompt: np.ndarray  # int32 [L]
    tokens: np.ndarray  # int32 [T]

    @property
    def length(self) -> int:
        return len(self.prompt) + len(self.tokens)


@dataclass(frozen=True)
class Example:
    """A pair or group: tokens and anchor log-probs of its responses, and of the third one if the objective reads it."""

    ids: tuple[str, ...]  # of first, second, and extra or others
    rows: tuple[Row, ...]
    anchors: Mapping[str, tuple[np.ndarray, ...]]  # name -> [T] of each of `ids`; without those that the step computes
    preference: float
    weight: float
    worth: tuple[float, ...] | None = None
    mass: tuple[float, ...] | None = None  # of a group whose responses were enumerated

    @property
    def length(self) -> int:
        return max(row.length for row in self.rows)


@dataclass(frozen=True)
class Group:
    """The number of tokens of a prompt and of each of its answers in a line of tokens."""

    prompt: int
    answers: tuple[int, ...]


@dataclass(frozen=True)
class Packed:
    """Rows for one forward pass: a line of groups, or a rectangle padded on the right, where nothing sees it."""

    tokens: np.ndarray  # int64 [1, L] or [R, L]
    at: np.ndarray  # int64 [M]: indices into tokens.flatten() of the positions that predict response tokens
    targets: np.ndarray  # int64 [M]: the response tokens, row by row
    mask: np.ndarray  # bool [R, T]: the valid outputs of each row
    groups: tuple[Group, ...] | None = None  # None: a rectangle

    @property
    def layout(self) -> dict[str, tuple[Group, ...]]:
        """The argument of a model that says where the rows are; empty for a rectangle."""
        return {} if self.groups is None else {"groups": self.groups}


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
    """The rows of the wanted responses, by id. Raises KeyError if no table has one of them."""
    missing = set(wanted)
    rows: dict[str, Row] = {}
    for table in tables:
        for shard in table.read_shards(["response", "prompt_tokens", "tokens"]):
            ids = shard["response"].to_pylist()
            found = [i for i, id in enumerate(ids) if id in missing]
            part = shard.take(np.array(found, dtype=np.int64))
            for i, prompt, tokens in zip(found, part["prompt_tokens"], part["tokens"], strict=True):
                rows[ids[i]] = Row(np.asarray(prompt.values, np.int32), np.asarray(tokens.values, np.int32))
                missing.discard(ids[i])
    if missing:
        raise KeyError(
            f"no response {min(missing)!r} in the tables of responses ({len(missing)} responses are missing)"
        )
    for id, row in rows.items():
        if len(row.prompt) == 0:
            raise ValueError(f"the prompt of response {id!r} has no tokens; a prompt needs at least one (BOS)")
    return rows


def read_examples(lesson: TrainingRound, own: str | None = None) -> list[Example]:
    """All pairs of the round with a positive weight, in the order of its tables.

    `own`: the sha256 of the policy whose log-probs the step computes. Raises KeyError if those of another anchor are
    missing, and ValueError if a pair lacks the third response that the objective reads.
    """
    third = lesson.objective.needs.extra is not None
    pairs = [pair if third else replace(pair, extra=None) for tables in lesson.tables for pair in read_pairs(tables)]
    if third and (incomplete := [pair for pair in pairs if pair.extra is None]):
        raise ValueError(
            f"the objective needs a third response in each pair, and the pair of {incomplete[0].first!r} and "
            f"{incomplete[0].second!r} has none ({len(incomplete)} of {len(pairs)} pairs). Fix: set selector.extra."
        )
    ids = {id for pair in pairs for id in named(pair)}
    rows = read_rows((tables.responses for tables in lesson.tables), ids)
    anchors = read_anchors(lesson, ids)
    computed = own is not None and any((id, own) not in anchors for id in ids)
    read = [name for name in sorted(lesson.objective.needs.anchors) if not computed or lesson.roles[name] != own]
    return [
        Example(
            ids=named(pair),
            rows=tuple(rows[id] for id in named(pair)),
            anchors={
                name: tuple(_anchor(anchors, rows, id, policy=lesson.roles[name], name=name) for id in named(pair))
                for name in read
            },
            preference=pair.preference,
            weight=pair.weight,
            worth=pair.worth,
            mass=pair.mass,
        )
        for pair in pairs
    ]


def count(lesson: TrainingRound) -> int:
    """The number of pairs of the round with a positive weight."""
    rounds = [tables for tables in lesson.tables if tables.pairs.rows]
    return sum(int((np.asarray(tables.read_pairs(["weight"])["weight"]) > 0).sum()) for tables in rounds)


def global_batches(pairs: int, *, batch: int, epochs: int, seed: int, round: int) -> list[np.ndarray]:
    """The indices of the pairs of each optimizer step: each epoch is a seeded permutation of all pairs.

    An epoch has as many steps as batches of `batch` need, and they share its pairs evenly: 65 pairs in batches of 64
    are 33 and 32, because a step of one pair is as long as one of 64.
    """
    steps = []
    for epoch in range(epochs):
        order = np.random.Generator(np.random.PCG64(derive(seed, "pairs", round, epoch))).permutation(pairs)
        steps += np.array_split(order, -(-pairs // batch)) if pairs else []
    return steps


@dataclass(frozen=True)
class Limits:
    """The size of a forward pass of one rank."""

    tokens: int  # with padding; one item may have more
    items: int | None = None  # None: any number
    shared: bool = False  # whether the answers to a prompt share it; if not, rows are padded to the longest


def deal(items: Sequence[Sequence[Row]], limits: Limits, *, ranks: int) -> list[list[np.ndarray]]:
    """Split a global batch: for each micro step, each rank's items, by their number in the batch.

    Items of one prompt go together, and those of similar length. All ranks take equally many micro steps; a rank may
    get no item in the last one.
    """
    prompts = [item[0].prompt.tobytes() for item in items]
    lengths = [max(row.length for row in item) for item in items]
    first, longest = dict[bytes, int](), dict[bytes, int]()  # item of a prompt
    everything = _Filled(limits.shared)
    for i, prompt in enumerate(prompts):
        first.setdefault(prompt, i)
        longest[prompt] = max(longest.get(prompt, 0), lengths[i])
        everything.add(items[i])
    needed = max(-(-everything.tokens // limits.tokens), -(-len(items) // limits.items) if limits.items else 1)
    share = everything.tokens / (-(-needed // ranks) * ranks)  # a number of passes that the ranks can share evenly
    passes, filled = list[list[int]](), _Filled(limits.shared)
    # The longest first: runs out of memory early, if at all.
    for i in sorted(range(len(items)), key=lambda i: (-longest[prompts[i]], first[prompts[i]], -lengths[i])):
        before = filled.tokens
        filled.add(items[i])
        full = filled.tokens > limits.tokens or before >= share
        if not passes or full or len(passes[-1]) == limits.items:
            passes.append([])
            filled = _Filled(limits.shared)
            filled.add(items[i])
        passes[-1].append(i)
    dealt = [np.array(each, dtype=np.int64) for each in passes]
    dealt += [np.zeros(0, np.int64)] * (-len(dealt) % ranks)
    return [dealt[start : start + ranks] for start in range(0, len(dealt), ranks)]


class _Filled:
    """The tokens of a forward pass."""

    def __init__(self, shared: bool) -> None:
        self.shared = shared
        self.prompts, self.rows, self.longest, self.sum = set[bytes](), 0, 0, 0

    def add(self, item: Sequence[Row]) -> None:
        for row in item:
            prompt = row.prompt.tobytes()
            self.sum += len(row.tokens) + (0 if prompt in self.prompts else len(row.prompt))
            self.prompts.add(prompt)
            self.rows += 1
            self.longest = max(self.longest, row.length)

    @property
    def tokens(self) -> int:
        return self.sum if self.shared else self.rows * self.longest


def read_pairs(tables: RoundTables) -> list[Pair]:
    """The pairs of a round with a positive weight."""
    rows = tables.read_pairs().to_pylist() if tables.pairs.rows else []
    return [Pair(**row | {name: _tuple(row.get(name)) for name in LISTS}) for row in rows if row["weight"] > 0]


LISTS = ("worth", "others", "mass")  # columns of a pair; version 0.1 has the first only


def _tuple(values: Sequence[object] | None) -> tuple[object, ...] | None:
    return None if values is None else tuple(values)


def named(pair: Pair) -> tuple[str, ...]:
    """The ids of its responses: first, second, the others of a group, and the third if it has one."""
    return tuple(id for id in (pair.first, pair.second, *(pair.others or ()), pair.extra) if id is not None)


def read_anchors(lesson: TrainingRound, ids: set[str]) -> dict[tuple[str, str], np.ndarray]:
    """The log-probs [T] of these responses under every anchor, by (response, policy)."""
    needed = lesson.objective.needs.anchors
    if absent := sorted(needed - set(lesson.roles)):
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
