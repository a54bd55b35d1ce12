"""A scorer's questions and answers as JSON: nothing that a judge may look at changes on the way."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from rlhf_flow.scorer.remote import schema as wire
from rlhf_flow.scorer.remote.schema import Health, Malformed, Reply
from rlhf_flow.system.redact import token_in
from rlhf_flow.types import Candidate, Message, Prompt, Response, Rollouts, SamplingParams, Scored
from tests.scorer.conftest import rollouts

TEXT = st.text(st.characters(), max_size=8)  # lone surrogates too
TOKENS = st.lists(st.integers(0, 2**31 - 1), max_size=4)
NUMBERS = st.floats(allow_nan=True) | st.integers()
META = st.recursive(
    st.none() | st.booleans() | NUMBERS | TEXT,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(TEXT, inner, max_size=3),
    max_leaves=6,
)


@st.composite
def asked(draw: st.DrawFn) -> Rollouts:
    b, n = draw(st.integers(0, 3)), draw(st.integers(1, 3))
    prompts = tuple(
        Prompt(
            id=draw(TEXT),
            messages=tuple(Message(draw(TEXT), draw(TEXT)) for _ in range(draw(st.integers(0, 2)))),
            tokens=tuple(draw(TOKENS)),
            answer=draw(st.none() | TEXT),
            candidates={"gold": Candidate("never sent", (1,))},
            meta=draw(st.dictionaries(TEXT, META, max_size=3)),
        )
        for _ in range(b)
    )
    responses = tuple(
        tuple(
            Response(
                id=f"{at}/{k}/{draw(TEXT)}",
                tokens=np.array(draw(TOKENS), dtype=np.int32),
                text=draw(TEXT),
                logps=np.zeros(2, dtype=np.float32),
                truncated=draw(st.booleans()),
                draw=SamplingParams(name=draw(TEXT), temperature=0.5),
                seed=7,
                policy="0" * 64,
                source=draw(st.sampled_from(["policy", "reference", "mixture", "dataset"])),
                mass=draw(st.floats(0, 1)),
            )
            for k in range(n)
        )
        for at in range(b)
    )
    return Rollouts(draw(st.integers(0, 9)), prompts, responses)


def seen(rollouts: Rollouts) -> object:
    """All that a judge may look at, in a form in which NaN equals NaN."""
    prompts = [(one.id, one.messages, one.tokens, one.answer, dict(one.meta)) for one in rollouts.prompts]
    responses = [
        [(y.id, y.text, y.tokens.tolist(), y.tokens.dtype, y.truncated, y.draw.name, y.source, y.mass) for y in group]
        for group in rollouts.responses
    ]
    return repr((rollouts.round, prompts, responses))


@pytest.mark.slow
@given(asked())
def test_a_judge_sees_the_same_rollouts(rollouts: Rollouts) -> None:
    assert seen(wire.to_rollouts(wire.from_rollouts(rollouts))) == seen(rollouts)


def test_how_an_answer_was_drawn_does_not_travel() -> None:
    sent = wire.to_rollouts(wire.from_rollouts(rollouts(["a"])))
    response = sent.responses[0][0]
    assert (response.logps, response.seed, response.policy, sent.prompts[0].candidates) == (None, 0, "", {})


def float32s(*shape: int) -> st.SearchStrategy[np.ndarray]:
    size = int(np.prod(shape))
    values = st.floats(allow_nan=True, allow_infinity=False, width=32)
    return st.lists(values, min_size=size, max_size=size).map(lambda found: np.float32(found).reshape(shape))


@st.composite
def scored(draw: st.DrawFn) -> Scored:
    b, n = draw(st.sampled_from([(0, 0), (1, 1), (2, 3), (3, 1)]))
    of = rollouts(*[[f"{k}" for k in range(n)] for _ in range(b)])
    return Scored(
        of,
        utility=draw(float32s(b, n)),
        wins=draw(float32s(b, n, n)),
        aspects={name: draw(float32s(b, n)) for name in draw(st.sets(TEXT, max_size=2))},
        counts=draw(st.dictionaries(TEXT, st.integers(0, 2**40), max_size=2)),
        batch_metrics=draw(st.dictionaries(TEXT, st.floats(allow_infinity=False), max_size=2)),
    )


def bits(values: np.ndarray) -> bytes:
    """Every NaN is as good as another."""
    assert values.dtype == np.float32
    return np.where(np.isnan(values), np.float32(np.nan), values).tobytes()


@given(scored())
def test_scores_come_back_bit_for_bit(scored: Scored) -> None:
    reply = wire.to_reply(wire.from_reply(Reply("abc", scored)), scored.rollouts)
    back = reply.scored
    assert reply.fingerprint == "abc"
    assert back.rollouts is scored.rollouts
    assert (bits(back.utility), bits(back.wins)) == (bits(scored.utility), bits(scored.wins))
    assert (back.utility.shape, back.wins.shape) == (scored.utility.shape, scored.wins.shape)
    assert {name: bits(values) for name, values in back.aspects.items()} == {
        name: bits(values) for name, values in scored.aspects.items()
    }
    assert back.counts == scored.counts
    assert repr(dict(back.batch_metrics)) == repr(dict(scored.batch_metrics))


def test_what_is_not_known_is_null() -> None:
    unknown = np.full((1, 1), np.nan, dtype=np.float32)
    given = Scored(rollouts(["a"]), utility=unknown, wins=unknown[:, None], batch_metrics={"gap": float("nan")})
    payload = json.loads(wire.from_reply(Reply("", given)))
    assert (payload["utility"], payload["wins"], payload["measures"]) == ([[None]], [[[None]]], {"gap": None})


def test_an_infinite_score_does_not_travel() -> None:
    endless = np.full((1, 1), np.inf, dtype=np.float32)
    with pytest.raises(FloatingPointError, match="the scorer gave an infinite number"):
        wire.from_reply(Reply("", Scored(rollouts(["a"]), utility=endless, wins=endless[:, None])))


def test_health_comes_back() -> None:
    health = Health("rule", "abc", True, 3)
    assert wire.to_health(wire.from_health(health)) == health


# -- what is malformed ------------------------------------------------------------------------------------------------


def minimal() -> dict[str, Any]:
    """The least that a client has to say."""
    answers = [{"id": "1", "text": "yes"}, {"id": "2", "text": "no"}]
    others = [{"id": "3", "text": "yes"}, {"id": "4", "text": "no"}]
    return {
        "version": 1,
        "prompts": [
            {"id": "q1", "messages": [{"role": "user", "content": "?"}], "responses": answers},
            {"id": "q2", "messages": [], "responses": others},
        ],
    }


def test_what_may_be_left_out_has_the_meaning_that_it_has_everywhere() -> None:
    sent = wire.to_rollouts(json.dumps(minimal()).encode())
    prompt, response = sent.prompts[0], sent.responses[0][0]
    assert (sent.round, prompt.answer, prompt.tokens, prompt.meta) == (0, None, (), {})
    assert (response.truncated, response.draw.name, response.source, response.mass) == (False, "policy", "policy", 1.0)


def put(*path: str | int, value: object) -> Callable[[dict[str, Any]], None]:
    def change(payload: dict[str, Any]) -> None:
        node: Any = payload
        for key in path[:-1]:
            node = node[key]
        node[path[-1]] = value

    return change


ONE = ("prompts", 1, "responses", 0)


@pytest.mark.parametrize(
    ("change", "told"),
    [
        (put("version", value=2), "version must be 1, got 2: use the same release of rlhf-flow on both sides"),
        (put("version", value=True), "version must be a whole number, got true"),
        (put("prompts", value=None), "prompts must be a list, got null"),
        (put("prompts", 0, value=3), "prompts[0] must be an object, got 3"),
        (put("prompts", 0, "idd", value="q"), "prompts[0] has the keys id, messages, tokens, answer, meta, responses"),
        (put("prompts", 0, "answer", value=7), "prompts[0].answer must be a text, got 7"),
        (put("prompts", 0, "meta", value=[]), "prompts[0].meta must be an object, got []"),
        (put("prompts", 0, "messages", 0, value={"role": "user"}), "prompts[0].messages[0].content must be there"),
        (put("prompts", 0, "tokens", value=[1, -1]), "prompts[0].tokens[1] must be a token's number, got -1"),
        (put(*ONE, "tokens", value=[True]), "prompts[1].responses[0].tokens[0] must be a token's number, got true"),
        (put(*ONE, "text", value=1.5), "prompts[1].responses[0].text must be a text, got 1.5"),
        (put(*ONE, "mass", value="1"), 'prompts[1].responses[0].mass must be a number, got "1"'),
        (put(*ONE, "truncated", value=0), "prompts[1].responses[0].truncated must be true or false, got 0"),
        (put(*ONE, "id", value="2"), "prompts[1].responses[0].id must be its own; '2' is another answer's"),
        (put("prompts", 1, "responses", value=[]), "prompts[1].responses must hold 2, as of prompts[0]: 0"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_the_place_that_is_wrong_is_named(change: Callable[[dict[str, Any]], None], told: str) -> None:
    payload = minimal()
    change(payload)
    with pytest.raises(Malformed) as raised:
        wire.to_rollouts(json.dumps(payload).encode())
    assert str(raised.value).startswith(told)


@pytest.mark.parametrize("body", [b"", b"{", b"\xff", b"[" * 100_000, b"[]", b"null"])
def test_a_body_that_is_no_object_is_malformed(body: bytes) -> None:
    with pytest.raises(Malformed, match="the body must be"):
        wire.to_rollouts(body)


def test_an_answer_that_is_there_twice_is_one_answer() -> None:
    """As in the evaluation of the start, which stands against itself."""
    payload = minimal()
    payload["prompts"][0]["responses"] = [{"id": "1", "text": "yes"}] * 2
    sent = wire.to_rollouts(json.dumps(payload).encode())
    assert [response.id for response in sent.responses[0]] == ["1", "1"]


@pytest.mark.parametrize(
    ("change", "told"),
    [
        (put("utility", value=[[1.0]]), "utility must be [1, 2], got [1, 1]"),
        (put("utility", value=[[1.0, "x"]]), "utility must be numbers in lists"),
        (put("wins", value=[[[0.5, 1.0], [0.0]]]), "wins must be numbers in lists"),
        (put("aspects", value={"tone": 3}), "aspects.tone must be a list, got 3"),
        (put("counts", value={"judge/queries": 1.5}), "counts.judge/queries must be a whole number, got 1.5"),
        (put("measures", value={"gap": "x"}), 'measures.gap must be a number, got "x"'),
        (put("fingerprint", value=None), "fingerprint must be a text, got null"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_an_answer_that_does_not_fit_the_question_is_refused(
    change: Callable[[dict[str, Any]], None], told: str
) -> None:
    of = rollouts(["a", "b"])
    half = np.full((1, 2, 2), 0.5, dtype=np.float32)
    payload = json.loads(wire.from_reply(Reply("abc", Scored(of, utility=half[0][:1], wins=half))))
    change(payload)
    with pytest.raises(Malformed) as raised:
        wire.to_reply(json.dumps(payload).encode(), of)
    assert str(raised.value).startswith(told)


# -- the token --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("value", ["", "two words", "line\n", "süß", "\x7f"])
def test_a_token_that_no_header_can_hold_is_refused_and_not_shown(value: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("JUDGE", value)
    with pytest.raises(ValueError, match=r"^scorer\.token_env must name an environment variable") as raised:
        token_in("scorer.token_env", "JUDGE")
    assert not value or value not in str(raised.value)
