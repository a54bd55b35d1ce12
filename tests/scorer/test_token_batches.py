from __future__ import annotations

import torch

from rlhf_flow.scorer.token_batches import by_length, packed, padded


def test_packing_keeps_the_order_and_the_budget() -> None:
    rows = [(0,) * length for length in (1, 2, 2, 3, 5, 5, 30)]
    batches = list(packed(rows, 10))
    assert [row for batch in batches for row in batch] == rows
    assert [len(batch) for batch in batches] == [3, 2, 1, 1]
    assert all(len(batch) * len(batch[-1]) <= 10 or len(batch) == 1 for batch in batches)


def test_rows_are_sorted_by_length_and_then_by_token() -> None:
    assert by_length({(3, 1), (9,), (2, 8), (1, 1, 1)}) == [(9,), (2, 8), (3, 1), (1, 1, 1)]


def test_padding_stands_to_the_right() -> None:
    tokens, mask = padded([(5, 6), (7,)], 3, torch.device("cpu"))
    assert tokens.tolist() == [[5, 6], [7, 3]]
    assert mask.tolist() == [[1, 1], [1, 0]]
