"""The types of `rlhf_flow.types` as parquet rows, one row per response, and back.

Decoding restores exactly what was encoded. A stage always reads what the stage before it committed, so a resumed round
equals an uninterrupted one.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from dataclasses import asdict
from itertools import pairwise

import numpy as np
import pyarrow as pa

from rlhf_flow.types import Message, Prompt, Response, Rollouts, SamplingParams, Scored, Selection

TOKENS = pa.list_(pa.int32())
LOGPS = pa.list_(pa.float32())
WINS = pa.list_(pa.struct([("j", pa.int32()), ("p", pa.float64())]))  # P(i beats j); float64, as the scorer gave it
OTHERS = "others"  # the column of a group's further responses
SIDES = ("first", "second", "extra")  # the columns of a pair that name responses; extra may be null

RESPONSES = pa.schema(
    [
        ("round", pa.int32()),
        ("prompt", pa.string()),
        ("messages", pa.string()),  # JSON: [{role, content}, ...]
        ("prompt_tokens", TOKENS),  # what the response continues: the prompt, or its context
        ("gold_answer", pa.string()),
        ("meta", pa.string()),  # JSON object
        ("response", pa.string()),  # id
        ("tokens", TOKENS),
        ("text", pa.string()),
        ("logps", LOGPS),
        ("truncated", pa.bool_()),
        ("draw", pa.string()),  # JSON: SamplingParams
        ("seed", pa.int64()),
        ("policy", pa.string()),
        ("source", pa.string()),
        ("staleness", pa.int32()),
        ("mass", pa.float64()),
    ]
)
ASKED = pa.field("asked_tokens", TOKENS)  # a further column if responses have contexts: the prompt's own tokens
PAIRS = pa.schema(
    [
        ("prompt", pa.string()),
        ("first", pa.string()),
        ("second", pa.string()),
        ("preference", pa.float64()),
        ("weight", pa.float64()),
        ("worth", pa.list_(pa.float64())),  # of first, second and others; null if the objective does not read it
        ("extra", pa.string()),
        ("others", pa.list_(pa.string())),  # of a group; absent in runs of 0.1
        ("mass", pa.list_(pa.float64())),
    ]
)
OWN = ("tokens", "text", "logps", "truncated", "seed", "policy", "source", "staleness", "mass")  # columns of `Response`
ANCHORS = pa.schema([("response", pa.string()), ("policy", pa.string()), ("logps", LOGPS)])


def from_rollouts(rollouts: Rollouts) -> pa.Table:
    """One row per response, in order. The columns of a prompt are repeated on each of its rows."""
    with_contexts = any(one.context is not None for group in rollouts.responses for one in group)
    schema = RESPONSES.append(ASKED) if with_contexts else RESPONSES
    columns: dict[str, list[object]] = {field.name: [] for field in schema}
    draws: dict[SamplingParams, str] = {}
    for prompt, responses in zip(rollouts.prompts, rollouts.responses, strict=True):
        shared = {
            "round": rollouts.round,
            "prompt": prompt.id,
            "messages": json.dumps([asdict(message) for message in prompt.messages], ensure_ascii=False),
            "prompt_tokens": np.asarray(prompt.tokens, np.int32),
            ASKED.name: np.asarray(prompt.tokens, np.int32),
            "gold_answer": prompt.answer,
            "meta": json.dumps(dict(prompt.meta), ensure_ascii=False),
        }
        for response in responses:
            if response.draw not in draws:
                given = {key: value for key, value in asdict(response.draw).items() if value is not None}
                draws[response.draw] = json.dumps(given)
            own = {name: getattr(response, name) for name in OWN}
            own |= {} if response.context is None else {"prompt_tokens": response.context}
            row = shared | own | {"response": response.id, "draw": draws[response.draw]}
            for name, values in columns.items():
                values.append(row[name])
    return pa.table({field.name: _column(columns[field.name], field.type) for field in schema}, schema=schema)


def to_rollouts(table: pa.Table) -> Rollouts:
    """The inverse of `from_rollouts`, except for candidates that were not drawn.

    Tokens and log-probs are views of the table's buffers.
    """
    prompts: dict[str, Prompt] = {}
    responses: dict[str, list[Response]] = {}
    draws: dict[str, SamplingParams] = {}
    lists = {name: views(table[name]) for name in ("prompt_tokens", "tokens", "logps")}
    own_prompts = views(table[ASKED.name]) if ASKED.name in table.column_names else lists["prompt_tokens"]
    measured = table["logps"].is_valid().to_pylist()
    rows = table.drop_columns([name for name in table.column_names if name in (*lists, ASKED.name)]).to_pylist()
    for row, has_logps, asked, context, tokens, logps in zip(rows, measured, own_prompts, *lists.values(), strict=True):
        if row["prompt"] not in prompts:
            prompts[row["prompt"]] = Prompt(
                id=row["prompt"],
                messages=tuple(Message(**message) for message in json.loads(row["messages"])),
                tokens=tuple(asked.tolist()),
                answer=row["gold_answer"],
                meta=json.loads(row["meta"]),
            )
            responses[row["prompt"]] = []
        if row["draw"] not in draws:
            draws[row["draw"]] = SamplingParams(**json.loads(row["draw"]))
        own = {name: row[name] for name in OWN if name not in lists}
        own |= {"tokens": tokens, "logps": logps if has_logps else None}
        own |= {} if np.array_equal(context, asked) else {"context": context}
        responses[row["prompt"]].append(Response(id=row["response"], draw=draws[row["draw"]], **own))
    return Rollouts(
        round=rows[0]["round"] if rows else 0,
        prompts=tuple(prompts.values()),
        responses=tuple(tuple(group) for group in responses.values()),
    )


def views(column: pa.ChunkedArray) -> list[np.ndarray]:
    """The lists of a column of numbers, as read-only views of its buffers; a null is empty."""
    found: list[np.ndarray] = []
    for chunk in column.chunks:
        values, bounds = chunk.values.to_numpy(), chunk.offsets.to_numpy()
        found += [values[start:end] for start, end in pairwise(bounds)]
    return found


def from_scored(scored: Scored) -> pa.Table:
    """One row per response: utility, aspects, and its row of `wins` and of each pair flag. Abstentions are left out."""
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
            row |= {f"mark/{name}": np.flatnonzero(flags[b, i]) for name, flags in scored.pair_flags.items()}
            rows.append(row)
    aspects = [(f"aspect/{name}", pa.float64()) for name in scored.aspects]
    marks = [(f"mark/{name}", pa.list_(pa.int32())) for name in scored.pair_flags]
    schema = pa.schema([("response", pa.string()), ("utility", pa.float64()), ("wins", WINS), *aspects, *marks])
    return pa.Table.from_pylist(rows, schema=schema)


def to_scored(table: pa.Table, rollouts: Rollouts) -> Scored:
    """The inverse of `from_scored`, given the rollouts that were scored. Raises ValueError if the ids differ."""
    if table["response"].to_pylist() != [response.id for group in rollouts.responses for response in group]:
        raise ValueError("scores and responses of the round name different responses")
    shape = (len(rollouts.prompts), len(rollouts.responses[0]) if rollouts.responses else 0)  # [B, N]
    wins = np.full((*shape, shape[1]), np.nan)  # [B, N, N]
    for at, row in enumerate(table["wins"].to_pylist()):
        b, i = divmod(at, shape[1])
        wins[b, i, i] = 0.5
        for win in row:
            wins[b, i, win["j"]] = win["p"]
    aspects, flags = {}, {}
    for column in table.column_names:
        kind, _, name = column.partition("/")
        if kind == "aspect":
            aspects[name] = _numbers(table, column).reshape(shape)
        elif kind == "mark":
            flags[name] = np.zeros((*shape, shape[1]), dtype=bool)
            for at, others in enumerate(table[column].to_pylist()):
                flags[name][(*divmod(at, shape[1]), others)] = True
    utility = _numbers(table, "utility").reshape(shape)
    return Scored(rollouts, utility=utility, wins=wins, aspects=aspects, pair_flags=flags)


def from_selection(selection: Selection) -> pa.Table:
    return pa.Table.from_pylist([asdict(pair) for pair in selection.pairs], schema=PAIRS)


def from_logps(ids: Sequence[str], policy: str, logps: Iterable[np.ndarray]) -> pa.Table:
    """Token log-probs of responses under one policy."""
    columns = {"response": list(ids), "policy": [policy] * len(ids), "logps": _column(list(logps), LOGPS)}
    return pa.table(columns, schema=ANCHORS)


def _column(values: Sequence[object], type: pa.DataType) -> pa.Array:
    """The values as an array. Lists are numpy arrays, or None for a null."""
    if not pa.types.is_list(type):
        return pa.array(values, type)
    lists = [value if isinstance(value, np.ndarray) else None for value in values]
    dtype = type.value_type.to_pandas_dtype()
    bounds = np.cumsum([0, *(0 if one is None else len(one) for one in lists)], dtype=np.int32)
    flat = np.concatenate([np.zeros(0, dtype), *(one for one in lists if one is not None)], dtype=dtype)
    nulls = pa.array([one is None for one in lists], pa.bool_())
    return pa.ListArray.from_arrays(bounds, flat, type=type, mask=nulls)


def _numbers(table: pa.Table, name: str) -> np.ndarray:
    return table[name].to_numpy().astype(np.float64)
