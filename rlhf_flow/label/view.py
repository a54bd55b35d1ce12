"""The state of the labelling page as JSON: a question with its answers on drawn sides, and the progress."""

from __future__ import annotations

from dataclasses import asdict

from rlhf_flow.label.markdown import to_html
from rlhf_flow.metrics.annotator_agreement import agreement
from rlhf_flow.scorer.human.annotations import Annotations, Question
from rlhf_flow.seeds import derive

LONGEST_NAME = 80  # characters
CHOICES = ("left", "right", "tie", "bad", "skip")
HISTORY = 100  # labels


def view(annotations: Annotations, annotator: str) -> dict[str, object]:
    """The question that the annotator holds, the id of their last label, the progress and the agreement."""
    question = annotations.hand(annotator)
    agreed = agreement(annotations.shared())
    return {
        "question": None if question is None else _shown(question, annotator),
        "last": annotations.last(annotator),
        "progress": asdict(annotations.progress(annotator)),
        "agreement": None if agreed is None else asdict(agreed),
    }


def verdict(choice: str, key: str, annotator: str) -> str:
    """The verdict that a choice by sides means. Raises ValueError for an unknown choice."""
    if choice not in CHOICES:
        raise ValueError(f"choice must be one of {', '.join(CHOICES)}, got {choice!r}")
    if choice not in ("left", "right"):
        return choice
    return "first" if (choice == "left") == first_left(key, annotator) else "second"


def history(annotations: Annotations, annotator: str) -> list[dict[str, object]]:
    """The annotator's labels, the latest first, with the questions as they were shown."""
    return [
        {
            "id": label.id,
            "choice": _choice(label.verdict, label.question.key, annotator),
            "comment": label.comment,
            "at": label.at,
            "question": _shown(label.question, annotator),
        }
        for label in annotations.labels(annotator, most=HISTORY)
    ]


def _choice(verdict: str, key: str, annotator: str) -> str:
    """The inverse of `verdict`."""
    if verdict not in ("first", "second"):
        return verdict
    return "left" if (verdict == "first") == first_left(key, annotator) else "right"


def first_left(key: str, annotator: str) -> bool:
    """Whether the first answer is on the left: with probability 1/2, fixed for one annotator and question."""
    return derive("stands left", key, annotator) % 2 == 0


def annotator_name(name: str) -> str:
    """The name with single blanks. Raises ValueError if it is empty or too long."""
    plain = " ".join(name.split())
    if not 0 < len(plain) <= LONGEST_NAME:
        raise ValueError(f"annotator must be a name of at most {LONGEST_NAME} characters, got {name[:100]!r}")
    return plain


def _shown(question: Question, annotator: str) -> dict[str, object]:
    answers = [_encodable(question.first), _encodable(question.second)]
    left, right = answers if first_left(question.key, annotator) else reversed(answers)
    chat = [(message.role, _encodable(message.content)) for message in question.messages]
    return {
        "key": question.key,
        "messages": [{"role": role, "html": to_html(text)} for role, text in chat],
        "left": to_html(left),
        "right": to_html(right),
        "written": {"messages": [text for _, text in chat], "left": left, "right": right},
    }


def _encodable(text: str) -> str:
    """The text with lone surrogates replaced, which no HTTP response can hold."""
    return text.encode("utf-8", "replace").decode()
