"""How people err in the embedded world: those who wrote the corpus, and those who say which answer is better.

Frozen, like the lexicon.
"""

from __future__ import annotations

import math
import random
from dataclasses import replace

from rlhf_flow.sandbox.grammar import REMARKS, Answer, Clause, Phrase, Reason, Remark, Sentence
from rlhf_flow.sandbox.lexicon import ADJUNCTS, CLOSINGS, FRAMES, KINDS, OPENINGS, TONES, TOPICS
from rlhf_flow.sandbox.request import COUNTS, Request

# of a writer: how often an answer ...
WRONG_KIND = 0.1
WRONG_TOPIC = 0.18
WRONG_TONE = 0.35
WRONG_COUNT = 0.45
NO_OPENING = 0.35  # where the tone wants one
CLOSING = 0.4
NO_REASON = 0.5  # where one was asked for
# ... and how often a sentence
DRIFT_TOPIC = 0.03
DRIFT_TONE = 0.05
UNASKED_REASON = 0.12
REPEAT = 0.12  # says a noun and an action that were said before
ADJUNCT = 0.35
ADJECTIVE = 0.4

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
    fitting = kind == request.kind and rng.random() >= slip * WRONG_COUNT
    count = request.count if fitting else rng.choice(COUNTS[kind])
    reasoned = request.reason and rng.random() >= slip * NO_REASON
    length = 1 if kind == "list" else count
    where = rng.randrange(length) if reasoned else -1
    sentences: list[Sentence] = []
    for position in range(length):
        here = _other(tuple(TOPICS), topic, slip * DRIFT_TOPIC, rng)
        items = count if kind == "list" else 1
        clause = _clause(kind, here, items, position == where or rng.random() < UNASKED_REASON, sentences, rng)
        if rng.random() < slip * REPEAT:
            clause = _repeat(clause, sentences, rng)
        heard = _other(TONES, tone, slip * DRIFT_TONE, rng)
        frame = rng.choice(FRAMES[kind, heard])
        sentences.append(Sentence(kind=kind, tone=heard, frame=frame, clause=clause))
    opening = _remark(OPENINGS[tone], 1 - slip * NO_OPENING, rng)
    return Answer(sentences=tuple(sentences), opening=opening, closing=_remark(CLOSINGS[tone], CLOSING, rng))


def _other(options: tuple[str, ...], wanted: str, probability: float, rng: random.Random) -> str:
    if rng.random() >= probability:
        return wanted
    return rng.choice([option for option in options if option != wanted])


def _remark(texts: tuple[str, ...], probability: float, rng: random.Random) -> Remark | None:
    return REMARKS[rng.choice(texts)] if texts and rng.random() < probability else None


def _clause(kind: str, topic: str, items: int, reasoned: bool, before: list[Sentence], rng: random.Random) -> Clause:
    words = TOPICS[topic]
    actions = {"advice": words.verbs, "description": words.predicates, "list": ("",)}[kind]
    nouns, action = _unsaid(words.nouns, items, before, rng), _unsaid(actions, 1, before, rng)[0]
    phrases = tuple(
        Phrase(noun=noun, adjective=rng.choice(words.adjectives) if rng.random() < ADJECTIVE else None)
        for noun in nouns
    )
    adjunct = rng.choice(ADJUNCTS[kind]) if ADJUNCTS[kind] and rng.random() < ADJUNCT else None
    reason = None
    if reasoned:
        predicate = rng.choice([predicate for predicate in words.predicates if predicate != action])
        reason = Reason(predicate=predicate, noun=rng.choice(("they", rng.choice(words.nouns))))
    return Clause(topic=topic, phrases=phrases, action=action, adjunct=adjunct, reason=reason)


def _repeat(clause: Clause, before: list[Sentence], rng: random.Random) -> Clause:
    """The clause with words that were said before, if there are any."""
    if len(clause.phrases) > 1:
        return replace(clause, phrases=(*clause.phrases[:-1], rng.choice(clause.phrases[:-1])))
    alike = [sentence.clause for sentence in before if sentence.clause.topic == clause.topic]
    return replace(clause, phrases=alike[-1].phrases, action=alike[-1].action) if alike else clause


def _unsaid(options: tuple[str, ...], n: int, before: list[Sentence], rng: random.Random) -> list[str]:
    clauses = [sentence.clause for sentence in before]
    said = {word for clause in clauses for word in (clause.action, *(phrase.noun for phrase in clause.phrases))}
    return rng.sample([option for option in options if option not in said], n)
