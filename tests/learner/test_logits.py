"""What is read of logits: against the definitions, in float64 and by hand."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from rlhf_flow.games.game import LOGITS, Board, Game
from rlhf_flow.games.learner import TabularLearner
from rlhf_flow.games.solvers import Fit
from rlhf_flow.learner.logits import TOP, spread
from rlhf_flow.types import Policy
from rlhf_flow.weights.source import InMemoryWeights
from tests.support.classroom import write


def by_hand(logits: np.ndarray, target: int) -> tuple[float, float, float, float]:
    p = np.exp(logits) / np.exp(logits).sum()
    top = sorted(p, reverse=True)[:TOP]
    entropy = -sum(q / sum(top) * math.log(q / sum(top)) for q in top)
    return math.log(p[target]), entropy, sum(top), float(np.float32(logits[target]) == np.float32(logits.max()))


def read(rows: list[list[float]], targets: list[int]) -> Tensor:
    return spread(torch.tensor(rows), torch.tensor(targets))


@given(
    st.integers(2, 30).flatmap(
        lambda v: st.tuples(st.lists(st.floats(-15, 15), min_size=v, max_size=v), st.integers(0, v - 1))
    )
)
def test_they_are_the_definitions(position: tuple[list[float], int]) -> None:
    logits, target = position
    (found,) = read([logits], [target]).tolist()
    assert found == pytest.approx(by_hand(np.array(logits), target), abs=1e-4)


def test_the_ends_of_the_scale() -> None:
    alike, sure = [0.0] * 40, [100.0] + [0.0] * 39
    (_, entropy, mass, first), (_, none, whole, other) = read([alike, sure], [0, 1]).tolist()
    assert (entropy, mass) == pytest.approx((math.log(TOP), TOP / 40))
    assert (none, whole) == pytest.approx((0, 1))
    assert (first, other) == (1, 0)


def test_mass_that_leaves_the_likeliest_changes_their_mass_alone() -> None:
    head, tail = [3.0, 2.0] * 5, [-2.0] * 90
    one, other = read([head + tail, head + [at + 1 for at in tail]], [0, 0]).tolist()
    assert one[1] == pytest.approx(other[1])
    assert one[2] > other[2] + 0.02


def test_where_tokens_are_impossible_the_others_are_all() -> None:
    (found,) = read([[0.0, 0.0, -torch.inf]], [1]).tolist()
    assert found == pytest.approx([math.log(0.5), math.log(2), 1, 1])


def test_of_no_position_there_is_nothing() -> None:
    assert spread(torch.zeros(0, 5), torch.zeros(0, dtype=torch.int64)).shape == (0, 4)


def test_a_table_of_logits_tells_its_spread_too(tmp_path: Path) -> None:
    game = Game(np.full((3, 3), 0.5), np.array([0.5, 0.25, 0.25]), answers=((0,), (1, 0), (1, 1)))
    board = Board((game,))
    learner = TabularLearner(board, Fit())
    rows = [{"response": name, "prompt_tokens": [0], "tokens": tokens} for name, tokens in (("a", [0]), ("b", [1, 1]))]
    table = write(pa.Table.from_pylist(rows), tmp_path)
    policy = Policy("policy", 0, "", InMemoryWeights({LOGITS: board.reference}))
    found = learner.spread([table], ["b", "a"], policy)
    half = math.log(2)
    assert found["logps"].to_pylist() == [pytest.approx([-half, -half]), pytest.approx([-half])]
    assert found["entropy"].to_pylist() == [pytest.approx([half, half]), pytest.approx([half])]
    assert found["mass"].to_pylist() == [pytest.approx([1, 1]), pytest.approx([1])]
    assert found.select(["response", "policy", "logps"]).equals(learner.logps([table], ["b", "a"], policy))
