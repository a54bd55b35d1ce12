"""Every pair is taught exactly as often as it should be, however many ranks share the work."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from rlhf_flow.learner.batching import (
    Limits,
    Row,
    count,
    deal,
    global_batches,
    pack,
    read_examples,
    read_pairs,
    read_rows,
)
from rlhf_flow.objective.dpo import DPO
from rlhf_flow.protocols import RoundTables, TrainingRound
from rlhf_flow.storage.tables import Table
from tests.support.classroom import PAIRS, RESPONSES, make_tables, write


@given(st.integers(0, 50), st.integers(1, 20), st.integers(1, 3), st.integers(0, 5), st.integers(1, 5))
def test_each_epoch_holds_every_pair_once(pairs: int, batch: int, epochs: int, seed: int, round: int) -> None:
    steps = global_batches(pairs, batch=batch, epochs=epochs, seed=seed, round=round)
    assert len(steps) == epochs * -(-pairs // batch)
    assert all(len(step) <= batch for step in steps)
    per_epoch = len(steps) // epochs
    for epoch in range(epochs):
        seen = [int(i) for step in steps[epoch * per_epoch : (epoch + 1) * per_epoch] for i in step]
        assert sorted(seen) == list(range(pairs))


@pytest.mark.parametrize(("pairs", "sizes"), [(65, [33, 32]), (64, [64]), (130, [44, 43, 43]), (3, [3]), (0, [])])
def test_no_step_is_left_with_a_few_pairs(pairs: int, sizes: list[int]) -> None:
    assert [len(step) for step in global_batches(pairs, batch=64, epochs=1, seed=0, round=1)] == sizes


def test_the_order_is_drawn_anew_for_each_seed_round_and_epoch_and_for_nothing_else() -> None:
    def order(**changes: int) -> list[int]:
        steps = global_batches(64, **{"batch": 64, "epochs": 2, "seed": 1, "round": 1} | changes)
        return np.concatenate(steps).tolist()

    first, second = order()[:64], order()[64:]
    assert len({tuple(first), tuple(second), tuple(order(seed=2)[:64]), tuple(order(round=2)[:64])}) == 4
    assert order(batch=8) == order()


ITEMS = st.lists(
    st.tuples(st.integers(0, 5), st.lists(st.integers(1, 9), min_size=1, max_size=3)), min_size=1, max_size=30
)


def items(drawn: list[tuple[int, list[int]]]) -> list[tuple[Row, ...]]:
    """Rows of one prompt each: its number, and the lengths of the answers."""
    prompts = [np.full(number + 1, number, np.int32) for number in range(6)]
    return [tuple(Row(prompts[number], np.zeros(n, np.int32)) for n in lengths) for number, lengths in drawn]


def size(rows: list[Row], *, shared: bool) -> int:
    """The tokens of a forward pass."""
    if not shared:
        return len(rows) * max(row.length for row in rows)
    return sum(len(row.tokens) for row in rows) + sum(
        map(len, {row.prompt.tobytes(): row.prompt for row in rows}.values())
    )


@given(ITEMS, st.integers(1, 60), st.none() | st.integers(1, 5), st.integers(1, 5), st.booleans())
def test_a_batch_is_dealt_once_within_limits_and_ranks_keep_step(
    drawn: list[tuple[int, list[int]]], tokens: int, most: int | None, ranks: int, shared: bool
) -> None:
    batch = items(drawn)
    waves = deal(batch, Limits(tokens, most, shared), ranks=ranks)
    assert all(len(wave) == ranks and len(wave[0]) for wave in waves)
    passes = [share for wave in waves for share in wave if len(share)]
    assert sorted(int(i) for share in passes for i in share) == list(range(len(batch)))
    assert most is None or all(len(share) <= most for share in passes)
    for share in passes:
        assert len(share) == 1 or size([row for i in share for row in batch[i]], shared=shared) <= tokens
    numbers = [batch[i][0].prompt[0] for share in passes for i in share]
    assert len([n for n, before in zip(numbers, [None, *numbers], strict=False) if n != before]) == len(set(numbers))


@given(st.integers(1, 6), st.integers(1, 40))
def test_ranks_share_what_fits_into_one_pass(ranks: int, pairs: int) -> None:
    batch = items([(0, [3, 3])] * pairs)
    (wave,) = deal(batch, Limits(10**6), ranks=ranks)
    assert max(map(len, wave)) <= -(-pairs // ranks) + 1


@given(st.lists(st.tuples(st.integers(1, 6), st.integers(0, 6)), min_size=1, max_size=6))
def test_packing_points_at_the_position_before_each_response_token(shape: list[tuple[int, int]]) -> None:
    token = iter(range(1, 1000))
    rows = [
        Row(np.array([next(token) for _ in range(p)], np.int32), np.array([next(token) for _ in range(t)], np.int32))
        for p, t in shape
    ]
    packed = pack(rows)
    assert packed.mask.sum(-1).tolist() == [t for _, t in shape]
    assert packed.targets.tolist() == [int(token) for row in rows for token in row.tokens]
    before = packed.tokens.flatten()[packed.at].tolist()
    assert before == [int(token) for row in rows for token in [row.prompt[-1], *row.tokens][: len(row.tokens)]]


def tables(folder: Path, pairs: list[dict[str, object]]) -> RoundTables:
    responses = [
        {"response": "a", "prompt_tokens": [0], "tokens": [5, 1]},
        {"response": "b", "prompt_tokens": [0], "tokens": [6, 7, 1]},
    ]
    return RoundTables(
        1,
        write(pa.Table.from_pylist(responses, schema=RESPONSES), folder / "responses"),
        write(pa.Table.from_pylist(pairs, schema=PAIRS), folder / "pairs"),
    )


def test_a_replayed_round_of_which_no_pair_is_kept_has_none(tmp_path: Path) -> None:
    replayed = tables(tmp_path, [{"prompt": "p", "first": "a", "second": "b", "preference": 1.0, "weight": 1.0}])
    assert [len(read_pairs(replace(replayed, kept=kept))) for kept in (None, (0,), ())] == [1, 1, 0]


def lesson(folder: Path, anchors: list[dict[str, object]], *, roles: dict[str, str] | None = None) -> TrainingRound:
    pairs = [{"prompt": "p", "first": "a", "second": "b", "preference": 1.0, "weight": w} for w in (1.0, 0.0, 2.0)]
    schema = pa.schema([("response", pa.string()), ("policy", pa.string()), ("logps", pa.list_(pa.float32()))])
    return TrainingRound(
        round=1,
        rounds=1,
        seed=0,
        tables=(tables(folder, pairs),),
        anchors=write(pa.Table.from_pylist(anchors, schema=schema), folder / "anchors"),
        roles={"reference": "ref"} if roles is None else roles,
        objective=DPO(),
    )


A = {"response": "a", "policy": "ref", "logps": [-1.0, -2.0]}
B = {"response": "b", "policy": "ref", "logps": [-3.0, -4.0, -5.0]}


def test_pairs_get_their_tokens_and_anchors(tmp_path: Path) -> None:
    taught = lesson(tmp_path, [A, {**A, "policy": "other", "logps": [0.0, 0.0]}, B])
    examples = read_examples(taught)
    assert [example.weight for example in examples] == [1.0, 2.0]  # a pair without weight teaches nothing
    assert count(taught) == 2
    assert [row.tokens.tolist() for row in examples[0].rows] == [[5, 1], [6, 7, 1]]
    assert [logps.tolist() for logps in examples[0].anchors["reference"]] == [[-1, -2], [-3, -4, -5]]


def test_a_missing_anchor_is_named(tmp_path: Path) -> None:
    with pytest.raises(
        KeyError, match="no log-probs of response 'b' under policy 'ref', which is the anchor 'reference'"
    ):
        read_examples(lesson(tmp_path, [A, {**B, "policy": "other"}]))
    with pytest.raises(KeyError, match="needs the anchor 'reference'"):
        read_examples(lesson(tmp_path, [A, B], roles={}))


def test_an_anchor_of_another_length_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="response 'b' has 3 tokens, but 2 log-probs"):
        read_examples(lesson(tmp_path, [A, {**B, "logps": [-1.0, -2.0]}]))


def test_a_response_that_no_table_holds_is_named(tmp_path: Path) -> None:
    with pytest.raises(KeyError, match="no response 'nobody'"):
        read_rows([make_tables(tmp_path).responses], ["1/policy/0/p0", "nobody"])


def test_a_prompt_without_tokens_is_refused(tmp_path: Path) -> None:
    row = {"response": "a", "prompt_tokens": [], "tokens": [1]}
    with pytest.raises(ValueError, match="the prompt of response 'a' has no tokens"):
        read_rows([write(pa.Table.from_pylist([row], schema=RESPONSES), tmp_path)], ["a"])


def test_a_lesson_without_pairs_has_no_steps(tmp_path: Path) -> None:
    empty = replace(lesson(tmp_path / "a", [A, B]), tables=(tables(tmp_path / "b", []),), anchors=Table(()))
    assert read_examples(empty) == []
    assert count(empty) == 0
    assert global_batches(0, batch=4, epochs=2, seed=0, round=1) == []
