"""JSON requests and replies of a scorer over HTTP.

A request holds what a scorer may read: of a prompt all but its candidates; of a response its id, text, tokens, source,
mass, truncation, and the name of its draw, but not its log-probs, seed, weights or decode settings. NaN is allowed in a
prompt's meta, as Python writes it; every other number is strict JSON. A request without optional keys:

    {"version": 1, "round": 3, "prompts": [{"id": "q7", "messages": [{"role": "user", "content": "Why?"}],
        "responses": [{"id": "3/policy/0/q7", "text": "Because."}, ...]}, ...]}

Its reply has both views of `Scored`, with NaN as null:

    {"version": 1, "fingerprint": "e3b0...", "utility": [[0.5, ...], ...], "wins": [[[0.5, ...], ...], ...],
        "aspects": {}, "marks": {}, "counts": {"judge/queries": 8}, "measures": {}}
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from typing import TypeVar

import numpy as np

from rlhf_flow.types import Message, Prompt, Response, Rollouts, SamplingParams, Scored

VERSION = 1
LARGEST_TOKEN = 2**31 - 1
NAMES = {str: "a text", int: "a whole number", float: "a number", bool: "true or false", dict: "an object"}
Kind = TypeVar("Kind")


class Malformed(ValueError):  # noqa: N818  # an attribute of the request
    """A body that breaks the schema; the message begins with the place, such as prompts[3].responses[0].text."""


@dataclass(frozen=True)
class Health:
    """A server's description of its scorer."""

    scorer: str  # registered name
    fingerprint: str  # of the scorer, its fields included
    intransitive: bool
    waiting: int  # requests


@dataclass(frozen=True)
class Reply:
    """The scores of a batch, with the scorer's fingerprint."""

    fingerprint: str
    scored: Scored


# -- rollouts ---------------------------------------------------------------------------------------------------------


def from_rollouts(rollouts: Rollouts) -> bytes:
    prompts = [
        {
            "id": prompt.id,
            "messages": [asdict(message) for message in prompt.messages],
            "tokens": list(prompt.tokens),
            "answer": prompt.answer,
            "meta": dict(prompt.meta),
            "responses": [_from_response(response) for response in responses],
        }
        for prompt, responses in zip(rollouts.prompts, rollouts.responses, strict=True)
    ]
    return json.dumps({"version": VERSION, "round": rollouts.round, "prompts": prompts}).encode()


def _from_response(response: Response) -> dict[str, object]:
    return {
        "id": response.id,
        "text": response.text,
        "tokens": response.tokens.tolist(),
        "truncated": response.truncated,
        "draw": response.draw.name,
        "source": response.source,
        "mass": response.mass,
    }


def to_rollouts(body: bytes) -> Rollouts:
    """The inverse of `from_rollouts`, for what a request holds. Raises Malformed.

    Every prompt has the same number of responses, and an id occurs twice only for the same answer to the same prompt.
    """
    payload = _versioned(body, "version", "round", "prompts")
    prompts, groups = [], []
    for node in payload.each("prompts", "id", "messages", "tokens", "answer", "meta", "responses"):
        prompts.append(
            Prompt(
                id=node.get("id", str),
                messages=tuple(
                    Message(one.get("role", str), one.get("content", str))
                    for one in node.each("messages", "role", "content")
                ),
                tokens=tuple(node.tokens()),
                answer=None if node.fields.get("answer") is None else node.get("answer", str),
                meta=node.get("meta", dict, {}),
            )
        )
        groups.append(tuple(map(_to_response, node.each("responses", *_RESPONSE))))
        if len(groups[-1]) != len(groups[0]):
            raise Malformed(f"{node.at('responses')} must hold {len(groups[0])}, as of prompts[0]: {len(groups[-1])}")
    _check_ids(groups)
    return Rollouts(round=payload.get("round", int, 0), prompts=tuple(prompts), responses=tuple(groups))


_RESPONSE = ("id", "text", "tokens", "truncated", "draw", "source", "mass")


def _to_response(node: _Object) -> Response:
    return Response(
        id=node.get("id", str),
        text=node.get("text", str),
        tokens=np.array(node.tokens(), dtype=np.int32),
        truncated=node.get("truncated", bool, False),
        draw=SamplingParams(name=node.get("draw", str, "policy")),
        source=node.get("source", str, "policy"),
        mass=node.number("mass", 1.0),
        logps=None,
        seed=0,
        policy="",
    )


def _check_ids(groups: list[tuple[Response, ...]]) -> None:
    """Scorers identify responses by id."""
    known: dict[str, tuple[int, str]] = {}
    for b, group in enumerate(groups):
        for n, response in enumerate(group):
            if known.setdefault(response.id, (b, response.text)) != (b, response.text):
                raise Malformed(f"prompts[{b}].responses[{n}].id must be its own; {response.id!r} is another answer's")


# -- scores -----------------------------------------------------------------------------------------------------------


def from_reply(reply: Reply) -> bytes:
    """Scores are float32. Raises FloatingPointError if a number is infinite."""
    scored = reply.scored
    payload = {
        "version": VERSION,
        "fingerprint": reply.fingerprint,
        "utility": _from_numbers(scored.utility),
        "wins": _from_numbers(scored.wins),
        "aspects": {name: _from_numbers(values) for name, values in scored.aspects.items()},
        "marks": {name: np.asarray(pairs, dtype=bool).tolist() for name, pairs in scored.pair_flags.items()},
        "counts": {name: int(count) for name, count in scored.counts.items()},
        "measures": {name: None if math.isnan(value) else float(value) for name, value in scored.batch_metrics.items()},
    }
    try:
        return json.dumps(payload, allow_nan=False).encode()
    except ValueError as error:
        raise FloatingPointError(f"the scorer gave an infinite number: {error}") from error


def to_reply(body: bytes, rollouts: Rollouts) -> Reply:
    """The inverse of `from_reply`, for the rollouts that were scored. Raises Malformed if it does not fit them."""
    names = ("version", "fingerprint", "utility", "wins", "aspects", "marks", "counts", "measures")
    payload = _versioned(body, *names)
    b, n = len(rollouts.prompts), len(rollouts.responses[0]) if rollouts.responses else 0
    aspects = _Object(payload.get("aspects", dict), "aspects")
    marks = _Object(payload.get("marks", dict, {}), "marks")
    counts = _Object(payload.get("counts", dict), "counts")
    measures = _Object(measured := payload.get("measures", dict), "measures")
    scored = Scored(
        rollouts,
        utility=payload.numbers("utility", (b, n)),
        wins=payload.numbers("wins", (b, n, n)),
        aspects={name: aspects.numbers(name, (b, n)) for name in aspects.fields},
        pair_flags={name: marks.numbers(name, (b, n, n)) == 1 for name in marks.fields},
        counts={name: counts.get(name, int) for name in counts.fields},
        batch_metrics={name: math.nan if value is None else measures.number(name) for name, value in measured.items()},
    )
    return Reply(payload.get("fingerprint", str), scored)


def to_health(body: bytes) -> Health:
    payload = _versioned(body, "version", "scorer", "fingerprint", "can_cycle", "waiting")
    return Health(
        scorer=payload.get("scorer", str),
        fingerprint=payload.get("fingerprint", str),
        intransitive=payload.get("can_cycle", bool),
        waiting=payload.get("waiting", int),
    )


def from_health(health: Health) -> bytes:
    fields = asdict(health)
    fields["can_cycle"] = fields.pop("intransitive")  # the protocol's name
    return json.dumps({"version": VERSION, **fields}).encode()


def _from_numbers(values: np.ndarray) -> object:
    """Nested lists, NaN as null. JSON floats round-trip exactly."""
    numbers = np.asarray(values, dtype=np.float32)
    if not np.isnan(numbers).any():
        return numbers.tolist()
    nullable = numbers.astype(object)
    nullable[np.isnan(numbers)] = None
    return nullable.tolist()


# -- reading ----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Object:
    """A JSON object and its place in the body."""

    fields: Mapping[str, object]
    place: str

    @classmethod
    def of(cls, value: object, place: str, keys: tuple[str, ...]) -> _Object:
        if not isinstance(value, dict):
            raise Malformed(f"{place or 'the body'} must be an object, got {_shown(value)}")
        if unknown := [key for key in value if key not in keys]:
            raise Malformed(f"{place or 'the body'} has the keys {', '.join(keys)}, and not {unknown[0]!r}")
        return cls(value, place)

    def at(self, key: str) -> str:
        return f"{self.place}.{key}" if self.place else key

    def get(self, key: str, kind: type[Kind], default: Kind | None = None) -> Kind:
        """The value of a key, which is required unless there is a default."""
        if key not in self.fields:
            if default is None:
                raise Malformed(f"{self.at(key)} must be there")
            return default
        value = self.fields[key]
        if not isinstance(value, kind) or (isinstance(value, bool) and kind is not bool):
            raise Malformed(f"{self.at(key)} must be {NAMES.get(kind, 'a list')}, got {_shown(value)}")
        return value

    def number(self, key: str, default: float | None = None) -> float:
        whole = isinstance(self.fields.get(key), int)
        return float(self.get(key, int)) if whole else self.get(key, float, default)

    def each(self, key: str, *keys: str) -> Iterator[_Object]:
        """The objects of a list, with no other keys than these."""
        for at, value in enumerate(self.get(key, list)):
            yield _Object.of(value, f"{self.at(key)}[{at}]", keys)

    def tokens(self) -> list[int]:
        tokens: list[int] = self.get("tokens", list, [])
        for at, token in enumerate(tokens):
            if type(token) is not int or not 0 <= token <= LARGEST_TOKEN:
                raise Malformed(f"{self.at('tokens')}[{at}] must be a token's number, got {_shown(token)}")
        return tokens

    def numbers(self, key: str, shape: tuple[int, ...]) -> np.ndarray:
        """float32 of nested lists; null is NaN."""
        lists = self.get(key, list)
        try:
            values = np.array(lists, dtype=np.float32)
        except (TypeError, ValueError, OverflowError) as error:
            raise Malformed(f"{self.at(key)} must be numbers in lists: {error}") from error
        if values.size == 0 and 0 in shape:
            return values.reshape(shape)
        if values.shape != shape:
            raise Malformed(f"{self.at(key)} must be {list(shape)}, got {list(values.shape)}")
        return values


def _versioned(body: bytes, *keys: str) -> _Object:
    try:
        parsed = json.loads(body)
    except (ValueError, RecursionError) as error:
        raise Malformed(f"the body must be JSON in UTF-8: {error}") from error
    payload = _Object.of(parsed, "", keys)
    if (version := payload.get("version", int)) != VERSION:
        raise Malformed(f"version must be {VERSION}, got {version}: use the same release of rlhf-flow on both sides")
    return payload


def _shown(value: object) -> str:
    text = json.dumps(value)
    return text if len(text) <= 40 else f"{text[:40]}..."
