"""What is written to a round's files is what is read from them."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pyarrow as pa
from hypothesis import given
from hypothesis import strategies as st

from rlhf_flow.storage import parquet as rows
from rlhf_flow.types import Message, Prompt, Response, Rollouts, SamplingParams, Scored
from tests.support import toy


@given(seed=st.integers(0, 2**32 - 1), n=st.integers(1, 4), named=st.sets(st.sampled_from(["overdue", "capped"])))
def test_scores_come_back_as_they_were(seed: int, n: int, named: set[str]) -> None:
    engine, generator = toy.Engine(), np.random.default_rng(seed)
    rollouts = engine.generate(toy.Prompts().all, toy.start(), SamplingParams(n=n), round=1, seed=seed % 1000)
    shape = (len(rollouts.prompts), n, n)
    wins = generator.random(shape)
    wins = np.where(generator.random(shape) < 0.3, np.nan, wins)
    wins[:, range(n), range(n)] = 0.5
    scored = Scored(
        rollouts,
        utility=generator.random(shape[:2]),
        wins=wins,
        aspects={"tone": generator.random(shape[:2])},
        pair_flags={name: generator.random(shape) < 0.5 for name in sorted(named)},
    )
    back = rows.to_scored(rows.from_scored(scored), rollouts)
    for name in ("utility", "wins"):
        np.testing.assert_array_equal(vars(back)[name], vars(scored)[name])
    for name in ("aspects", "pair_flags"):
        assert vars(back)[name].keys() == vars(scored)[name].keys()
        for key, values in vars(back)[name].items():
            np.testing.assert_array_equal(values, vars(scored)[name][key])


def test_scores_of_other_responses_are_refused() -> None:
    rollouts = toy.Engine().generate(toy.Prompts().all, toy.start(), SamplingParams(n=2), round=1, seed=0)
    table = rows.from_scored(toy.HigherIsBetter().score(rollouts))
    other = replace(rollouts, prompts=rollouts.prompts[:1], responses=rollouts.responses[:1])
    try:
        rows.to_scored(table, other)
    except ValueError as error:
        assert "name different responses" in str(error)
    else:
        raise AssertionError("the scores of six prompts were read as those of one")


def answers(seed: int, lengths: list[list[int | None]]) -> Rollouts:
    """One prompt per list, with answers of these lengths; None: one token, from a data set, without log-probs."""
    random = np.random.default_rng(seed)

    def one(id: str, length: int | None) -> Response:
        tokens = random.integers(0, 99, length or 1, dtype=np.int32)
        logps = None if length is None else random.standard_normal(length).astype(np.float32)
        return Response(id, tokens, f"text {id}", logps, truncated=False, draw=SamplingParams(n=2), seed=1, policy="p")

    prompts = [Prompt(f"p{b}", (Message("user", "why?"),), tuple(range(b + 1))) for b in range(len(lengths))]
    groups = [tuple(one(f"1/{k}/p{b}", length) for k, length in enumerate(group)) for b, group in enumerate(lengths)]
    return Rollouts(1, tuple(prompts), tuple(groups))


LENGTHS = st.lists(st.lists(st.none() | st.integers(0, 5), min_size=2, max_size=2), min_size=1, max_size=4)


@given(seed=st.integers(0, 1000), lengths=LENGTHS, cut=st.integers(0, 8))
def test_responses_come_back_as_they_were_from_any_chunks(seed: int, lengths: list[list[int | None]], cut: int) -> None:
    rollouts = answers(seed, lengths)
    table = rows.from_rollouts(rollouts)
    back = rows.to_rollouts(pa.concat_tables([table[:cut], table[cut:]]))
    assert back.prompts == rollouts.prompts
    for was, now in zip(rollouts.responses, back.responses, strict=True):
        for before, after in zip(was, now, strict=True):
            np.testing.assert_array_equal(after.tokens, before.tokens)
            np.testing.assert_array_equal(after.logps, before.logps)
            assert replace(after, tokens=before.tokens, logps=before.logps) == before


def test_tokens_and_log_probs_are_read_without_a_copy() -> None:
    table = rows.from_rollouts(answers(0, [[4, 3], [2, 1]]))
    for group in rows.to_rollouts(table).responses:
        for response in group:
            for name in ("tokens", "logps"):
                assert np.shares_memory(vars(response)[name], table[name].chunk(0).values.to_numpy())
