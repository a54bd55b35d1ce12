"""How people err in the embedded world: those who wrote the corpus, and those who say which answer is better.

Frozen, like the lexicon.
"""

from __future__ import annotations

import math
import random
from dataclasses import replace

from rlhf_flow.sandbox.grammar import REMARKS, Answer, Clause, Phrase, Reason, Remark, Sentence
from rlhf_flow.sandbox.lexicon import ADJUNCTS, CLOSINGS, FRAMES, KINDS, OPENINGS, STOPS, TONES, TOPICS
from rlhf_flow.sandbox.request import COUNTS, Request

# of a writer: how often an answer ...
WRONG_KIND = 0.05
WRONG_TOPIC = 0.05
WRONG_TONE = 0.5
WRONG_COUNT = 0.5
NO_OPENING = 0.5  # where the tone wants one
CLOSING = 0.4
NO_REASON = 0.6  # where one was asked for
# ... and how often a sentence
DRIFT_TOPIC = 0.01
DRIFT_TONE = 0.4
UNASKED_REASON = 0.1
REPEAT = 0.05  # minds not what was said before
ADJUNCT = 0.25
ADJECTIVE = 0.3

# of a judge: P(first is preferred) = FLIP + (1 - 2 FLIP) sigmoid(SCALE (gold of first - gold of second))
SCALE = 12.0
FLIP = 0.05


def prefers(first: float, second: float, rng: random.Random) -> bool:
    """Whether a judge prefers the first of two answers with these gold utilities."""
    return rng.random() < FLIP + (1 - 2 * FLIP) / (1 + math.exp(-SCALE * (first - second)))


def write(request: Request, rng: random.Random, *, care: float = 0.0) -> Answer:
    """A well-formed answer by someone who errs 1 - care times as often as stated above."""
    slip = 1 - care
    assert request.kind and request.topic and request.tone and request.count
    kind = _other(KINDS, request.kind, slip * WRONG_KIND, rng)
    topic = _other(tuple(TOPICS), request.topic, slip * WRONG_TOPIC, rng)
    tone = _other(TONES, request.tone, slip * WRONG_TONE, rng)
    count = request.count if rng.random() >= slip * WRONG_COUNT else rng.choice(COUNTS)
    reasoned = request.reason and rng.random() >= slip * NO_REASON
    where = rng.randrange(count) if reasoned else -1
    sentences: list[Sentence] = []
    for position in range(count):
        here = _other(tuple(TOPICS), topic, slip * DRIFT_TOPIC, rng)
        said = [] if rng.random() < slip * REPEAT else sentences
        clause = _clause(kind, here, position == where or rng.random() < slip * UNASKED_REASON, said, rng)
        heard = _other(TONES, tone, slip * DRIFT_TONE, rng)
        frame = rng.choice(FRAMES[kind, heard])
        sentences.append(Sentence(kind=kind, tone=heard, frame=frame, clause=clause, stop=STOPS[heard]))
    opening = _remark(OPENINGS[tone], 1 - slip * NO_OPENING, rng)
    return Answer(sentences=tuple(sentences), opening=opening, closing=_remark(CLOSINGS[tone], CLOSING, rng))


def mishear(request: Request, rng: random.Random) -> Request:
    """The request with another kind, topic or number than was asked for."""
    assert request.kind and request.topic
    way = rng.randrange(3)
    if way == 0:
        return replace(request, kind=_other(KINDS, request.kind, 1.0, rng))
    if way == 1:
        return replace(request, topic=_other(tuple(TOPICS), request.topic, 1.0, rng))
    return replace(request, count=rng.choice([count for count in COUNTS if count != request.count]))


def _other(options: tuple[str, ...], wanted: str, probability: float, rng: random.Random) -> str:
    if rng.random() >= probability:
        return wanted
    return rng.choice([option for option in options if option != wanted])


def _remark(texts: tuple[str, ...], probability: float, rng: random.Random) -> Remark | None:
    return REMARKS[rng.choice(texts)] if texts and rng.random() < probability else None


def _clause(kind: str, topic: str, reasoned: bool, before: list[Sentence], rng: random.Random) -> Clause:
    words = TOPICS[topic]
    said = {word for sentence in before for word in sentence.clause.words}
    noun = _unsaid(words.nouns, said, rng)
    action = _unsaid(words.verbs if kind == "advice" else words.predicates, said, rng)
    adjective = rng.choice(words.adjectives) if rng.random() < ADJECTIVE else None
    adjunct = rng.choice(ADJUNCTS[kind]) if rng.random() < ADJUNCT else None
    reason = None
    if reasoned:
        predicate = _unsaid(words.predicates, {*said, action}, rng)
        reason = Reason(predicate=predicate, noun=rng.choice(("they", rng.choice(words.nouns))))
    return Clause(phrase=Phrase(noun=noun, adjective=adjective), action=action, adjunct=adjunct, reason=reason)


def _unsaid(options: tuple[str, ...], said: set[str], rng: random.Random) -> str:
    return rng.choice([option for option in options if option not in said])
