"""Results of evaluations as Markdown tables."""

from __future__ import annotations

from collections.abc import Sequence

from rlhf_flow.evaluation.matrix import Matrix
from rlhf_flow.evaluation.record import rated
from rlhf_flow.report.format import cell, with_ends


def comparison(matrix: Matrix) -> str:
    """The win rates of the rows against the columns, and the ratings, the best first."""
    k = len(matrix.names)
    rates = [
        [name, *("" if i == j else cell(matrix.rate(i, j)) for j in range(k))] for i, name in enumerate(matrix.names)
    ]
    ranked = sorted(rated(matrix).items(), key=lambda row: -row[1]["elo"])
    columns = ["elo", "strength", *matrix.measures]
    ratings = [[name, *(with_ends(row, key) for key in columns)] for name, row in ranked]
    return "\n".join([*table(["row beats column", *matrix.names], rates), "", *table(["policy", *columns], ratings)])


def table(head: Sequence[str], rows: Sequence[Sequence[object]]) -> list[str]:
    """The lines of a Markdown table."""
    lines = [f"| {' | '.join(map(str, row))} |" for row in [head, *rows]]
    return [lines[0], "|---|" + "--:|" * (len(head) - 1), *lines[1:]]
