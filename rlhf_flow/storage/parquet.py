"""Nouns as rows: what a round's parquet files contain.

One row per response, prompt by prompt, so that any reader of parquet can use them. Decoding gives back exactly what was
encoded; a stage always reads what the stage before it committed, so a resumed round cannot differ from a fresh one.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict

import numpy as np
import pyarrow as pa

from rlhf_flow.types import Message, Prompt, Response, Rollouts, SamplingParams, Scored, Selection

TOKENS = pa.list_(pa.int32())
LOGPS = pa.list_(pa.float32())
WINS = pa.list_(pa.struct([("j", pa.int32()), ("p", pa.float64())]))  # a verdict is kept as it was given
SIDES = ("first", "second", "extra")  # the responses that a pair names; the last may be null

RESPONSES = pa.schema(
    [
        ("round", pa.int32()),
        ("prompt", pa.string()),
        ("messages", pa.string()),  # JSON: [{role, content}, ...]
        ("prompt_tokens", TOKENS),
        ("gold_answer", pa.string()),
        ("meta", pa.string()),  # JSON object
        ("response", pa.string()),  # id
        ("tokens", TOKENS),
        ("text", pa.string()),
        ("logps", LOGPS),
        ("truncated", pa.bool_()),
        ("draw", pa.string()),  # JSON: the Draw
        ("seed", pa.int64()),
        ("policy", pa.string()),
        ("source", pa.string()),
        ("staleness", pa.int32()),
        ("mass", pa.float64()),
    ]
)
PAIRS = pa.schema(
    [
        ("prompt", pa.string()),
        ("first", pa.string()),
        ("second", pa.string()),
        ("preference", pa.float64()),
        ("weight", pa.float64()),
        ("worth", pa.list_(pa.float64(), 2)),  # of first and second; null where nobody reads it
        ("extra", pa.string()),
    ]
)
ANCHORS = pa.schema([("response", pa.string()), ("policy", pa.string()), ("logps", LOGPS)])


def from_rollouts(rollouts: Rollouts) -> pa.Table:
    """One row per response, in order; a prompt's own columns stand on each of its rows."""
    rows = []
    for prompt, responses in zip(rollouts.prompts, rollouts.responses, strict=True):
        shared = {
            "round": rollouts.round,
            "prompt": prompt.id,
            "messages": json.dumps([asdict(message) for message in prompt.messages], ensure_ascii=False),
            "prompt_tokens": prompt.tokens,
            "gold_answer": prompt.answer,
            "meta": json.dumps(dict(prompt.meta), ensure_ascii=False),
        }
        rows += [
            shared
            | {
                "response": response.id,
                "tokens": response.tokens,
                "text": response.text,
                "logps": response.logps,
                "truncated": response.truncated,
                "draw": json.dumps({key: value for key, value in asdict(response.draw).items() if value is not None}),
                "seed": response.seed,
                "policy": response.policy,
                "source": response.source,
                "staleness": response.staleness,
                "mass": response.mass,
            }
            for response in responses
        ]
    return pa.Table.from_pylist(rows, schema=RESPONSES)


def to_rollouts(table: pa.Table) -> Rollouts:
    """The inverse of `from_rollouts`, but for the candidates that were not drawn."""
    prompts: dict[str, Prompt] = {}
    responses: dict[str, list[Response]] = {}
    draws: dict[str, SamplingParams] = {}
    rows = table.to_pylist()
    for row in rows:
        if row["prompt"] not in prompts:
            prompts[row["prompt"]] = Prompt(
                id=row["prompt"],
                messages=tuple(Message(**message) for message in json.loads(row["messages"])),
                tokens=tuple(row["prompt_tokens"]),
                answer=row["gold_answer"],
                meta=json.loads(row["meta"]),
            )
            responses[row["prompt"]] = []
        if row["draw"] not in draws:
            draws[row["draw"]] = SamplingParams(**json.loads(row["draw"]))
        responses[row["prompt"]].append(
            Response(
                id=row["response"],
                tokens=np.asarray(row["tokens"], dtype=np.int32),
                text=row["text"],
                logps=None if row["logps"] is None else np.asarray(row["logps"], dtype=np.float32),
                truncated=row["truncated"],
                draw=draws[row["draw"]],
                seed=row["seed"],
                policy=row["policy"],
                source=row["source"],
                staleness=row["staleness"],
                mass=row["mass"],
            )
        )
    return Rollouts(
        round=rows[0]["round"] if rows else 0,
        prompts=tuple(prompts.values()),
        responses=tuple(tuple(group) for group in responses.values()),
    )


def from_scored(scored: Scored) -> pa.Table:
    """One row per response: utility, aspects, and its row of `wins` and of each mark, sparse.

    An abstention is a missing entry.
    """
    rows = []
    for b, responses in enumerate(scored.rollouts.responses):
        for i, response in enumerate(responses):
            wins = [
                {"j": j, "p": float(scored.wins[b, i, j])}
                for j in range(len(responses))
                if j != i and not np.isnan(scored.wins[b, i, j])
            ]
            row = {"response": response.id, "utility": float(scored.utility[b, i]), "wins": wins}
            row |= {f"aspect/{name}": float(values[b, i]) for name, values in scored.aspects.items()}
            rows.append(
                row | {f"mark/{name}": np.flatnonzero(pairs[b, i]) for name, pairs in scored.pair_flags.items()}
            )
    aspects = [(f"aspect/{name}", pa.float64()) for name in scored.aspects]
    marks = [(f"mark/{name}", pa.list_(pa.int32())) for name in scored.pair_flags]
    schema = pa.schema([("response", pa.string()), ("utility", pa.float64()), ("wins", WINS), *aspects, *marks])
    return pa.Table.from_pylist(rows, schema=schema)


def to_scored(table: pa.Table, rollouts: Rollouts) -> Scored:
    """The inverse of `from_scored`, for the rollouts that were scored. Raises ValueError where the ids differ."""
    ids = [response.id for group in rollouts.responses for response in group]
    if table["response"].to_pylist() != ids:
        raise ValueError("scores and responses of the round name different responses")
    shape = (len(rollouts.prompts), len(rollouts.responses[0]) if rollouts.responses else 0)  # [B, N]
    wins = np.full((*shape, shape[1]), np.nan)  # [B, N, N]
    for at, row in enumerate(table["wins"].to_pylist()):
        b, i = divmod(at, shape[1])
        wins[b, i, i] = 0.5
        for entry in row:
            wins[b, i, entry["j"]] = entry["p"]
    marks = {
        name.removeprefix("mark/"): _marked(table[name].to_pylist(), shape)
        for name in table.column_names
        if name.startswith("mark/")
    }
    return Scored(
        rollouts=rollouts,
        utility=column(table, "utility").reshape(shape),
        wins=wins,
        aspects={
            name.removeprefix("aspect/"): column(table, name).reshape(shape)
            for name in table.column_names
            if name.startswith("aspect/")
        },
        pair_flags=marks,
    )


def _marked(rows: Sequence[Sequence[int]], shape: tuple[int, int]) -> np.ndarray:
    """bool [B, N, N] of the other answers that each row names."""
    marks = np.zeros((*shape, shape[1]), dtype=bool)
    for at, others in enumerate(rows):
        marks[(*divmod(at, shape[1]), list(others))] = True
    return marks


def from_selection(selection: Selection) -> pa.Table:
    return pa.Table.from_pylist([asdict(pair) for pair in selection.pairs], schema=PAIRS)


def from_logps(ids: Sequence[str], policy: str, logps: Sequence[np.ndarray]) -> pa.Table:
    """Token log-probs of responses under one policy."""
    return pa.Table.from_pydict(
        {"response": list(ids), "policy": [policy] * len(ids), "logps": list(logps)}, schema=ANCHORS
    )


def column(table: pa.Table, name: str) -> np.ndarray:
    """A column of numbers as a float64 array."""
    return table[name].to_numpy().astype(np.float64)


def count(values: Sequence[str] | Mapping[str, str]) -> dict[str, int]:
    """How often each bucket occurs, in the order of the names."""
    names = list(values.values()) if isinstance(values, Mapping) else list(values)
    return {name: names.count(name) for name in sorted(set(names))}
