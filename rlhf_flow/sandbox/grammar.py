"""What a well-formed answer is: a tree, its text, and the parser that finds the tree again.

    answer   = [opening] sentence{1..8} [closing]
    sentence = a frame of some kind and tone around a clause, then a stop
    clause   = verb "the" phrase [adjunct] [reason]        advice
             | phrase predicate [adjunct] [reason]         description
    phrase   = [adjective] noun          reason = ", because" ("they" | noun) predicate

Frozen, like the lexicon.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass

from rlhf_flow.sandbox.lexicon import ADJUNCTS, CLOSINGS, FRAMES, OPENINGS, STOPS, TOPICS

MOST_SENTENCES = 8


@dataclass(frozen=True)
class Phrase:
    noun: str
    adjective: str | None = None

    def __str__(self) -> str:
        return f"{self.adjective} {self.noun}" if self.adjective else self.noun


@dataclass(frozen=True)
class Reason:
    predicate: str
    noun: str = "they"

    def __str__(self) -> str:
        return f", because {self.noun} {self.predicate}"


@dataclass(frozen=True)
class Clause:
    phrase: Phrase
    action: str  # the verb of an advice, the predicate of a description
    adjunct: str | None = None
    reason: Reason | None = None

    @property
    def words(self) -> tuple[str, ...]:
        """What it says: nouns and actions."""
        said = (self.phrase.noun, self.action)
        return (*said, self.reason.noun, self.reason.predicate) if self.reason else said


@dataclass(frozen=True)
class Sentence:
    kind: str
    tone: str
    frame: str
    clause: Clause
    stop: str = "."

    def __str__(self) -> str:
        clause = self.clause
        text = f"{clause.action} the {clause.phrase}" if self.kind == "advice" else f"{clause.phrase} {clause.action}"
        text += f" {clause.adjunct}" if clause.adjunct else ""
        text = self.frame.format(f"{text}{clause.reason or ''}{self.stop}")
        return text[0].upper() + text[1:]


@dataclass(frozen=True)
class Remark:
    """An opening or a closing."""

    place: str  # opening or closing
    tone: str
    text: str

    def __str__(self) -> str:
        return self.text


@dataclass(frozen=True)
class Answer:
    sentences: tuple[Sentence, ...]
    opening: Remark | None = None
    closing: Remark | None = None

    def __str__(self) -> str:
        return " ".join(map(str, filter(None, (self.opening, *self.sentences, self.closing))))


REMARKS: dict[str, Remark] = {
    text: Remark(place=place, tone=tone, text=text)
    for place, texts in (("opening", OPENINGS), ("closing", CLOSINGS))
    for tone in texts
    for text in texts[tone]
}
NOUNS, ADJECTIVES, VERBS, PREDICATES = (
    tuple(word for topic in TOPICS.values() for word in getattr(topic, words))
    for words in ("nouns", "adjectives", "verbs", "predicates")
)


def parse(text: str) -> Answer | None:
    """The tree of a well-formed answer, whose text is `text` to the letter but for space around it; otherwise None."""
    parts = read(text)
    opening, closing = _remark(parts[0], "opening"), _remark(parts[-1], "closing")
    parts = parts[opening is not None : len(parts) - (closing is not None)]
    sentences = tuple(part for part in parts if isinstance(part, Sentence))
    if len(sentences) != len(parts) or not 1 <= len(sentences) <= MOST_SENTENCES:
        return None
    answer = Answer(sentences=sentences, opening=opening, closing=closing)
    return answer if str(answer) == text.strip() else None


def read(text: str) -> tuple[Remark | Sentence | None, ...]:
    """The parts of any text, whether or not they make an answer; None where a part is not of the grammar."""
    parts = re.split(r"(?<=[.!?]) ", text.strip())
    return tuple(REMARKS.get(part) or _sentence(part) for part in parts)


def _remark(part: Remark | Sentence | None, place: str) -> Remark | None:
    return part if isinstance(part, Remark) and part.place == place else None


def _sentence(text: str) -> Sentence | None:
    if not text or text[-1] not in STOPS.values():
        return None
    for (kind, tone), frames in FRAMES.items():
        for frame in frames:
            before = frame.removesuffix("{}")
            # the first letter of a frame is a capital in its sentence; "I" always is
            lowered = text if before.startswith("I ") else text[0].lower() + text[1:]
            if not lowered.startswith(before):
                continue
            for clause in _clause(lowered[len(before) : -1], kind):
                sentence = Sentence(kind=kind, tone=tone, frame=frame, clause=clause, stop=text[-1])
                if str(sentence) == text:
                    return sentence
    return None


# Every rule below reads from the start of `text` and yields (node, rest) for each way to do so.


def _word(text: str, options: tuple[str, ...]) -> Iterator[tuple[str, str]]:
    for word in options:
        if text.startswith(word) and text[len(word) : len(word) + 1] in ("", " ", ","):
            yield word, text[len(word) :].removeprefix(" ")


def _phrase(text: str) -> Iterator[tuple[Phrase, str]]:
    for noun, rest in _word(text, NOUNS):
        yield Phrase(noun=noun), rest
    for adjective, after in _word(text, ADJECTIVES):
        for noun, rest in _word(after, NOUNS):
            yield Phrase(noun=noun, adjective=adjective), rest


def _reason(text: str) -> Iterator[tuple[Reason | None, str]]:
    yield None, text
    for _, after in _word(text, (", because",)):
        for noun, rest in _word(after, ("they", *NOUNS)):
            for predicate, end in _word(rest, PREDICATES):
                yield Reason(predicate=predicate, noun=noun), end


def _core(text: str, kind: str) -> Iterator[tuple[Phrase, str, str]]:
    """Yield (phrase, action, rest)."""
    if kind == "advice":
        for verb, after in _word(text, VERBS):
            for _, noun in _word(after, ("the",)):
                for phrase, rest in _phrase(noun):
                    yield phrase, verb, rest
    else:
        for phrase, after in _phrase(text):
            for predicate, rest in _word(after, PREDICATES):
                yield phrase, predicate, rest


def _clause(text: str, kind: str) -> Iterator[Clause]:
    for phrase, action, after in _core(text, kind):
        for adjunct, rest in ((None, after), *_word(after, ADJUNCTS[kind])):
            for reason, end in _reason(rest):
                if not end:
                    yield Clause(phrase=phrase, action=action, adjunct=adjunct, reason=reason)
