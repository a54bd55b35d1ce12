"""Results of evaluations as Markdown tables."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from rlhf_flow.evaluation.matrix import Interval, Matrix
from rlhf_flow.evaluation.record import rated
from rlhf_flow.report.format import ABSENT, number, supported

FORMS = {"elo": ".0f", "samples": ".0f", "tokens": ".1f"}  # of the columns that are not in the digits of their interval


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


def cell(interval: Interval | None, form: str = ".3f") -> str:
    """A value with its interval; a dash if it is not known."""
    if interval is None:
        return ABSENT
    value, low, high = interval
    form = supported(form, low, high)
    return f"{number(value, form)} ({number(low, form)} to {number(high, form)})"


def with_ends(row: Mapping[str, float], key: str) -> str:
    """The value of a key with its interval, if it has one; a dash if it is not there."""
    form = FORMS.get(key, ".3f")
    if f"{key}_low" not in row:
        return number(row.get(key), form)
    return cell((row[key], row[f"{key}_low"], row[f"{key}_high"]), form)


def table(head: Sequence[str], rows: Sequence[Sequence[object]]) -> list[str]:
    """The lines of a Markdown table."""
    lines = [f"| {' | '.join(map(str, row))} |" for row in [head, *rows]]
    return [lines[0], "|---|" + "--:|" * (len(head) - 1), *lines[1:]]
