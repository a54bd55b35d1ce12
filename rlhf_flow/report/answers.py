"""The held-out answers of a report: those that changed most, an even sample, and those that got worse."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from rlhf_flow.metrics.spacing import spread
from rlhf_flow.observe.samples import Answer, Change, largest
from rlhf_flow.report.run_folder import Run

CHANGED = 6  # answers of the last round that changed most
SHOWN = 8  # answers of the last round, evenly spaced; of earlier rounds half of that
EARLIER = 6  # earlier rounds whose answers are shown
LOST = 4  # answers with the lowest win probability against the start's


@dataclass(frozen=True)
class Group:
    """Answers side by side."""

    title: str
    note: str
    answers: tuple[Answer, ...]
    open: bool


def groups(run: Run) -> Iterator[Group]:
    if not run.answered:
        return
    last = run.answered[-1]
    answers = run.answers(last)
    most = changed(answers, CHANGED)
    note = f"the {len(most)} of {len(answers)} held-out prompts whose answer changed most, for better or worse"
    yield Group(f"After round {last}: changed most", note, tuple(most), open=True)
    shown = spread(answers, SHOWN)
    note = f"{len(shown)} of {len(answers)} held-out prompts, evenly spaced, not selected by their scores"
    yield Group(f"After round {last}", note, tuple(shown), open=False)
    lost = [answer for answer in answers if answer.win is not None and answer.win < 0.5]
    if lost:
        worst = sorted(lost, key=lambda answer: (answer.win, answer.prompt_id))[:LOST]
        note = f"the {len(worst)} worst of {len(lost)} answers that the scorer prefers less than the start's"
        yield Group(f"After round {last}: worse than before", note, tuple(worst), open=False)
    for round in reversed(spread(run.answered[:-1], EARLIER)):
        answers = run.answers(round)
        shown = spread(answers, SHOWN // 2)
        note = f"{len(shown)} of {len(answers)} held-out prompts, evenly spaced"
        yield Group(f"After round {round}", note, tuple(shown), open=False)


def changed(answers: Sequence[Answer], wanted: int) -> list[Answer]:
    """The `wanted` answers that changed most: by utility, then by win probability, then by their text."""
    return [answers[at] for at in largest([Change.since_start(one) for one in answers], wanted)]
