"""A run on the terminal: the table of its rounds, and examples of answers before and after."""

from __future__ import annotations

import textwrap

from rlhf_flow.report.answers import changed
from rlhf_flow.report.format import clipped, number, visible
from rlhf_flow.report.page import by_training, columns, sources
from rlhf_flow.report.run_folder import Answer, Run

WIDTH = 100  # characters of a line of answers
WITHOUT_ANSWERS = (("eval/accuracy", "accuracy on held-out labels"), ("eval/loss", "loss of a held-out token, nats"))
CLIP = 600  # characters of an answer


def table(run: Run) -> str:
    """One line a round, then the aspects and sources, if any, and a caution if training uses the evaluation scorer."""
    if not run.metrics:
        return f"{visible(run.name)}: no round is finished yet"
    blocks = [_aligned(columns(run))]
    aspects = run.names("eval/aspect/")
    if aspects:
        rounds = list(run.metrics)
        measured = [(visible(name), run.series(f"eval/aspect/{name}")) for name in aspects]
        table = [(name, [number(series.get(round)) for round in rounds]) for name, series in measured]
        blocks.append(_aligned([("round", [str(round) for round in rounds]), *table]))
    if lines := sources(run):
        blocks.append(_aligned([(name, list(values)) for name, *values in zip(*lines, strict=True)]))
    return "\n\n".join([*blocks, *(textwrap.fill(line, WIDTH) for line in by_training(run))])


def samples(run: Run, n: int) -> str:
    """The `n` held-out prompts whose answer changed most, with the answers of the start and of the last policy."""
    if not run.answered:
        measured = [(what, series) for key, what in WITHOUT_ANSWERS if (series := run.series(key))]
        if not measured:
            return "no answers to compare: no round after the start was evaluated"
        what, values = measured[0]
        first, last = min(values), max(values)
        before = f", {number(values[first])} in round {first}" if first != last else ""
        return f"{what}: {number(values[last])} in round {last}{before}"
    last = run.answered[-1]
    answers = run.answers(last)
    shown = changed(answers, n)
    head = f"Held-out answers before and after round {last}: the {len(shown)} of {len(answers)} that changed most"
    return "\n\n".join([head, *(_side_by_side(answer) for answer in shown)])


def _aligned(table: list[tuple[str, list[str]]]) -> str:
    widths = [max(len(name), *(len(value) for value in values)) for name, values in table]
    lines = [[name for name, _ in table], ["─" * width for width in widths]]
    lines += [list(row) for row in zip(*(values for _, values in table), strict=True)]
    return "\n".join("  ".join(cell.rjust(width) for cell, width in zip(line, widths, strict=True)) for line in lines)


def _side_by_side(answer: Answer) -> str:
    after = f"after {number(answer.utility)}"
    return "\n".join(
        [
            *_wrapped("", answer.prompt),
            *_wrapped(f"  before {number(answer.start_utility)}  ", answer.start),
            *_wrapped(f"  {after:<{len('before ') + len(number(answer.start_utility))}}  ", answer.answer),
        ]
    )


def _wrapped(label: str, text: str) -> list[str]:
    shown = clipped(visible(text).strip(), CLIP) or "(nothing)"
    lines = [part for line in shown.split("\n") for part in textwrap.wrap(line, WIDTH - len(label)) or [""]]
    return [f"{label if at == 0 else ' ' * len(label)}{line}" for at, line in enumerate(lines)]
