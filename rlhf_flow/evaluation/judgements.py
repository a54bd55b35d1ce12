"""The judgements of AlpacaEval, MT-Bench and Arena-Hard, as comparisons like those of a scorer."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import combinations
from pathlib import Path
from typing import NamedTuple

import numpy as np

from rlhf_flow.evaluation.matrix import Matrix, no_verdicts
from rlhf_flow.evaluation.questions import read_rows
from rlhf_flow.prompts.parse import Row

DECISIVE = 3  # verdicts for which Arena-Hard counts one of >> or <<
LABELS = {"A>>B": 1.0, "A>B": 1.0, "A=B": 0.5, "A<B": 0.0, "A<<B": 0.0}
LABELS |= {"B>>A": 0.0, "B>A": 0.0, "B=A": 0.5, "B<A": 1.0, "B<<A": 1.0}
BASELINE = "baseline"  # the opponent, if a row does not name it


class Verdict(NamedTuple):
    """P(the policy beats the opponent) on a prompt, which counts `weight` times."""

    by: str
    prompt: str
    policy: str
    opponent: str
    win: float
    weight: float = 1.0


def read_judgements(form: str, files: Sequence[Path]) -> list[Matrix]:
    """One comparison for each judge, of rows in the format `form`, a key of `READERS`.

    A prompt with several verdicts on the same two models, such as those on two turns or on both orders, has their mean,
    and counts as often as it has verdicts. Verdicts that the benchmark could not read are left out. Raises ValueError
    if the files have no verdicts.
    """
    rows = [row for file in files for row in read_rows(file, "--import")]
    try:
        verdicts = [verdict for verdict in READERS[form](rows) if verdict.win == verdict.win]
    except (KeyError, TypeError) as error:
        raise ValueError(f"--import {form} {files[0]}: expected judgements of {form}, found {error!r}. Fix: name "
                         "another format or file.") from error  # fmt: skip
    if not verdicts:
        raise ValueError(f"--import {form} {files[0]}: there are no verdicts. Fix: name a file with judgements.")
    judges = dict.fromkeys(verdict.by for verdict in verdicts)
    return [_matrix([verdict for verdict in verdicts if verdict.by == judge]) for judge in judges]


def _matrix(verdicts: Sequence[Verdict]) -> Matrix:
    names = tuple(dict.fromkeys(name for one in verdicts for name in (one.opponent, one.policy)))
    prompts = tuple(dict.fromkeys(one.prompt for one in verdicts))
    at, row = {name: k for k, name in enumerate(names)}, {prompt: b for b, prompt in enumerate(prompts)}
    wins, weights = no_verdicts(len(prompts), len(names)), np.zeros((len(prompts), len(names), len(names)))
    sums = np.zeros_like(weights)
    for one in verdicts:
        b, i, j = row[one.prompt], at[one.policy], at[one.opponent]
        sums[b, i, j] += one.weight * one.win
        sums[b, j, i] += one.weight * (1 - one.win)
        weights[b, [i, j], [j, i]] += one.weight
    np.divide(sums, weights, out=wins, where=weights > 0)
    return Matrix(verdicts[0].by, names, prompts, wins, weights=weights)


def _alpaca_eval(rows: Sequence[Row]) -> Iterator[Verdict]:
    """annotations.json: `preference` is 1 for output_1, 2 for output_2, or between them; 0 is a tie."""
    for values in (row.values for row in rows):
        preference = _number(values["preference"]) or 1.5
        names = str(values["generator_2"]), str(values["generator_1"])
        by = f"alpaca_eval {values.get('annotator', '')}".strip()
        yield Verdict(by, str(values["instruction"]), *names, preference - 1)


def _mt_bench(rows: Sequence[Row]) -> Iterator[Verdict]:
    """<judge>_pair.jsonl, or <judge>_single.jsonl, in which the higher grade of the same turn wins.

    Two different winners in the two orders are a tie.
    """
    grades: dict[tuple[str, str, str], dict[str, float]] = defaultdict(dict)
    for values in (row.values for row in rows):
        by, question = f"mt_bench {_judge(values)}", str(values["question_id"])
        if "score" in values:
            grade = _number(values["score"])
            grades[by, question, str(values["turn"])][str(values["model"])] = np.nan if grade < 0 else grade
            continue
        winners = {values["g1_winner"], values["g2_winner"]}
        if "error" not in winners:
            win = 1.0 if winners == {"model_1"} else 0.0 if winners == {"model_2"} else 0.5
            yield Verdict(by, question, str(values["model_1"]), str(values["model_2"]), win)
    for (by, question, _), given in grades.items():
        for one, other in combinations(sorted(given), 2):
            win = (1 + np.sign(given[one] - given[other])) / 2
            yield Verdict(by, question, one, other, float(win))


def _arena_hard(rows: Sequence[Row]) -> Iterator[Verdict]:
    """model_judgment/<judge>/<model>.jsonl: in the first game, A is the baseline; in the second, the model."""
    for values in (row.values for row in rows):
        games = values["games"]
        assert isinstance(games, list)
        for at, game in enumerate(games):
            label = str((game or {}).get("score"))
            if label not in LABELS:
                continue
            yield Verdict(
                f"arena_hard {_judge(values)}",
                str(values.get("question_id", values.get("uid"))),
                str(values["model"]),
                str(values.get("baseline", BASELINE)),
                LABELS[label] if at % 2 else 1 - LABELS[label],
                DECISIVE if ">>" in label or "<<" in label else 1,
            )


def _number(value: object) -> float:
    """NaN if there is none."""
    return float(value) if isinstance(value, int | float) else float("nan")


def _judge(values: Mapping[str, object]) -> str:
    judge = values.get("judge", "")
    return " ".join(map(str, judge)) if isinstance(judge, list) else str(judge)


READERS: dict[str, Callable[[Sequence[Row]], Iterator[Verdict]]] = {
    "alpaca_eval": _alpaca_eval,
    "mt_bench": _mt_bench,
    "arena_hard": _arena_hard,
}
