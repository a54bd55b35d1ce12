"""The gold judge: the true worth of an answer, aspect by aspect, from the texts alone.

Frozen, like the lexicon. No part of the reward model's training sees it except through `noise.prefers`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from rlhf_flow.sandbox.grammar import Remark, Sentence, parse, read
from rlhf_flow.sandbox.lexicon import TOPICS
from rlhf_flow.sandbox.request import Request, understand
from rlhf_flow.types import Message, Verdict

WEIGHTS = {"topic": 0.15, "tone": 0.35, "length": 0.2, "kind": 0.1, "reason": 0.2}
BROKEN = 0.5  # what is left of the worth of an answer that is not well-formed, at most


def worth(prompt: Sequence[Message], answer: str, meta: Mapping[str, object]) -> Verdict:
    """Judge an answer to the last user message of `prompt`; every aspect and the utility lie in [0, 1].

    The utility is merit * variety; of an answer that is not well-formed it is BROKEN of that, times the share of its
    parts that parse. An aspect that the prompt does not ask for is 1 and does not count. `meta` is not read.
    """
    asked = [message.content for message in prompt if message.role == "user"]
    request = understand(asked[-1] if asked else "")
    parts = read(answer)
    known = [part for part in parts if part is not None]
    sentences = [part for part in known if isinstance(part, Sentence)]
    aspects = {
        "topic": _topic(request, sentences),
        "tone": _tone(request, known),
        "length": _length(request, sentences),
        "kind": _kind(request, sentences),
        "reason": _reason(request, sentences),
    }
    counted = {
        "topic": request.topic is not None,
        "tone": request.tone is not None,
        "length": request.count is not None,
        "kind": request.kind is not None,
        "reason": request.reason,
    }
    total = sum(weight for name, weight in WEIGHTS.items() if counted[name])
    merit = sum(weight * aspects[name] for name, weight in WEIGHTS.items() if counted[name]) / total if total else 1.0
    variety = _variety(sentences)
    well_formed = parse(answer) is not None
    utility = merit * variety
    if not well_formed:
        utility *= BROKEN * len(known) / len(parts)
    return Verdict(utility=utility, aspects={"well_formed": float(well_formed), **aspects, "variety": variety})


def _share(hits: Sequence[bool]) -> float:
    return sum(hits) / len(hits) if hits else 0.0


def _topic(request: Request, sentences: Sequence[Sentence]) -> float:
    """The share of nouns and actions that are of the topic."""
    if request.topic is None:
        return 1.0
    asked = TOPICS[request.topic]
    fitting = {*asked.nouns, *asked.verbs, *asked.predicates}
    words = [word for sentence in sentences for word in sentence.clause.words if word != "they"]
    return _share([word in fitting for word in words])


def _kind(request: Request, sentences: Sequence[Sentence]) -> float:
    if request.kind is None:
        return 1.0
    return _share([sentence.kind == request.kind for sentence in sentences])


def _tone(request: Request, parts: Sequence[Remark | Sentence]) -> float:
    """The share of parts in the tone asked for; a missing opening is a wrong part."""
    if request.tone is None:
        return 1.0
    hits = [part.tone == request.tone for part in parts]
    if not any(isinstance(part, Remark) and part.place == "opening" for part in parts):
        hits.append(False)
    return _share(hits)


def _length(request: Request, sentences: Sequence[Sentence]) -> float:
    """How near the number of sentences is to the number asked for."""
    if request.count is None:
        return 1.0
    return 1 - abs(len(sentences) - request.count) / max(len(sentences), request.count)


def _reason(request: Request, sentences: Sequence[Sentence]) -> float:
    if not request.reason:
        return 1.0
    return float(any(sentence.clause.reason is not None for sentence in sentences))


def _variety(sentences: Sequence[Sentence]) -> float:
    """The share of nouns, and of actions, that are not said a second time."""
    nouns = {sentence.clause.phrase.noun for sentence in sentences}
    actions = {sentence.clause.action for sentence in sentences}
    return (len(nouns) + len(actions)) / (2 * len(sentences)) if sentences else 0.0
