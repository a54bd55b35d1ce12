"""Labels in the common preference format: a conversation, the answer that was chosen and the one that was rejected."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from rlhf_flow.scorer.questions import Label


def rows(labels: Iterable[Label]) -> Iterator[dict[str, object]]:
    """A row for each label that prefers an answer: `prompt`, `chosen` and `rejected` as messages, and who said it.

    Ties, skips and pairs of which both are bad have no chosen answer, and no row.
    """
    for label in labels:
        if label.verdict not in ("first", "second"):
            continue
        answers = label.question.first, label.question.second
        chosen, rejected = answers if label.verdict == "first" else reversed(answers)
        yield {
            "prompt": [{"role": one.role, "content": one.content} for one in label.question.messages],
            "chosen": [{"role": "assistant", "content": chosen}],
            "rejected": [{"role": "assistant", "content": rejected}],
            "annotator": label.annotator,
            "comment": label.comment,
            "at": label.at,
        }
