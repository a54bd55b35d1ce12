"""A run on the terminal: the table of its rounds, and examples of answers before and after."""

from __future__ import annotations

import textwrap

from rlhf_flow.observe.samples import Change, Samples
from rlhf_flow.report.format import number
from rlhf_flow.report.page import by_training, columns, sources
from rlhf_flow.report.run_folder import Run
from rlhf_flow.system.visible_text import clipped, visible

WIDTH = 100  # characters of a line of answers
WITHOUT_ANSWERS = (("eval/accuracy", "accuracy on held-out labels"), ("eval/loss", "loss of a held-out token, nats"))
CLIP = 600  # characters of an answer


def table(run: Run) -> str:
    """One line a round, then the aspects and sources, if any, and a caution if training uses the evaluation scorer."""
    if not run.metrics:
        return f"{visible(run.name)}: no round is finished yet"
    blocks = [aligned(columns(run))]
    aspects = run.names("eval/aspect/")
    if aspects:
        rounds = list(run.metrics)
        measured = [(visible(name), run.series(f"eval/aspect/{name}")) for name in aspects]
        table = [(name, [number(series.get(round)) for round in rounds]) for name, series in measured]
        blocks.append(aligned([("round", [str(round) for round in rounds]), *table]))
    if lines := sources(run):
        blocks.append(aligned([(name, list(values)) for name, *values in zip(*lines, strict=True)]))
    return "\n\n".join([*blocks, *(textwrap.fill(line, WIDTH) for line in by_training(run))])


def samples(run: Run, n: int) -> str:
    """The `n` held-out prompts whose answer changed most in the last evaluated round, with both answers."""
    since = Samples(run.folder, n).at(run.answered[-1]) if run.answered else None
    if since is None:
        measured = [(what, series) for key, what in WITHOUT_ANSWERS if (series := run.series(key))]
        if not measured:
            return "no answers to compare: no round after the start was evaluated"
        what, values = measured[0]
        first, last = min(values), max(values)
        before = f", {number(values[first])} in round {first}" if first != last else ""
        return f"{what}: {number(values[last])} in round {last}{before}"
    then = "the start" if since.round == 0 else f"round {since.round}"
    head = (
        f"Held-out answers of {then} and of round {run.answered[-1]}: {len(since.changes)} of {since.of}, "
        f"those that changed most{' and were not among them last time' if since.round else ''}"
    )
    return "\n\n".join([head, *(_side_by_side(change) for change in since.changes)])


def aligned(table: list[tuple[str, list[str]]]) -> str:
    """Columns (name, values) as text, each as wide as its widest cell."""
    widths = [max(len(name), *(len(value) for value in values)) for name, values in table]
    lines = [[name for name, _ in table], ["─" * width for width in widths]]
    lines += [list(row) for row in zip(*(values for _, values in table), strict=True)]
    return "\n".join("  ".join(cell.rjust(width) for cell, width in zip(line, widths, strict=True)) for line in lines)


def _side_by_side(change: Change) -> str:
    before, after = f"before {number(change.before_utility)}", f"after {number(change.after_utility)}"
    return "\n".join(
        [
            *_wrapped("", change.prompt),
            *_wrapped(f"  {before}  ", change.before),
            *_wrapped(f"  {after:<{len(before)}}  ", change.after),
        ]
    )


def _wrapped(label: str, text: str) -> list[str]:
    shown = clipped(visible(text).strip(), CLIP) or "(nothing)"
    lines = [part for line in shown.split("\n") for part in textwrap.wrap(line, WIDTH - len(label)) or [""]]
    return [f"{label if at == 0 else ' ' * len(label)}{line}" for at, line in enumerate(lines)]
