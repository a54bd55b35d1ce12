"""How often a scorer agrees with labelled pairs, by subset: files as those of RewardBench."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import groupby
from pathlib import Path

import numpy as np

from rlhf_flow.config.schema import RunConfig
from rlhf_flow.evaluation.judge import opened
from rlhf_flow.evaluation.questions import read_rows
from rlhf_flow.metrics.stats import share_with_interval
from rlhf_flow.prompts.bad_rows import BadRowError
from rlhf_flow.prompts.layout import AUTO, lay_out
from rlhf_flow.prompts.parse import Columns, Row, question
from rlhf_flow.types import Prompt, Response, Rollouts, SamplingParams

ALL = "all"  # every row of the file
CHOSEN, REJECTED, SUBSET = "chosen", "rejected", "subset"  # columns
PAIR = Columns(candidates={CHOSEN: CHOSEN, REJECTED: REJECTED})
DRAW = SamplingParams(name="labelled", n=1)


@dataclass(frozen=True)
class Labelled:
    """A prompt with its good answers, which come first, and its bad ones."""

    prompt: Prompt
    answers: tuple[str, ...]
    good: int  # the number of good answers
    subset: str | None


def accuracies(path: Path, config: RunConfig, *, out: Path) -> dict[str, dict[str, float]]:
    """By subset, and of all rows: `accuracy` with its interval, and the numbers of `rows` and of `abstained` ones.

    A row counts 1 if `config.scorer` prefers every good answer to every bad one, and 1/2 if the closest two tie. Rows
    without a verdict are left out. Raises ValueError if the file cannot be read.
    """
    labelled = read_labelled(path)
    with opened(config, out) as scorer:
        right = np.empty(len(labelled))
        for _, group in groupby(sorted(range(len(labelled)), key=lambda at: len(labelled[at].answers)),
                                key=lambda at: len(labelled[at].answers)):  # fmt: skip
            chosen = list(group)
            scored = scorer.score(_rollouts([labelled[at] for at in chosen]))
            for b, at in enumerate(chosen):
                good = labelled[at].good
                worst = scored.wins[b, :good, good:].min()  # NaN if one of them is
                right[at] = (1 + np.sign(worst - 0.5)) / 2
    subsets = [one.subset for one in labelled]
    named = list(dict.fromkeys(name for name in subsets if name is not None))
    rows = {name: np.array([subset == name for subset in subsets]) for name in named}
    return {name: _accuracy(right[mask]) for name, mask in (rows | {ALL: np.ones(len(right), dtype=bool)}).items()}


def read_labelled(path: Path) -> list[Labelled]:
    """The rows of a file with the columns prompt, chosen, rejected and, if it has subsets, subset.

    Other layouts of pairs are recognised as those of prompts are. `chosen` and `rejected` may be lists of texts.
    """
    rows = read_rows(path, "--pairs")
    several = [row for row in rows if _is_several(row)]
    laid_out = lay_out([row for row in rows if not _is_several(row)], AUTO, PAIR, system=True)
    found = [*_several(several)]
    for row in laid_out.rows:
        if isinstance(row, BadRowError):
            raise row
        one = question(row, laid_out.columns)
        prompt = Prompt(one.id, one.messages, (), one.answer, meta=one.meta)
        answers = (one.candidates[CHOSEN], one.candidates[REJECTED])
        found.append(Labelled(prompt, answers, 1, _subset(row)))
    return found


def _is_several(row: Row) -> bool:
    value = row.values.get(REJECTED)
    return isinstance(value, list) and bool(value) and all(isinstance(text, str) for text in value)


def _several(rows: Sequence[Row]) -> Iterator[Labelled]:
    for row in rows:
        good, bad = row.values.get(CHOSEN), row.values[REJECTED]
        good = [good] if isinstance(good, str) else good
        if not isinstance(good, list) or not good or not isinstance(bad, list):
            raise row.error(f"expected a text or a list of texts in column {CHOSEN!r}", "correct the row")
        kept = {name: value for name, value in row.values.items() if name not in (CHOSEN, REJECTED)}
        one = question(replace(row, values=kept), Columns())
        yield Labelled(Prompt(one.id, one.messages, (), meta=one.meta), (*good, *bad), len(good), _subset(row))


def _subset(row: Row) -> str | None:
    value = row.values.get(SUBSET)
    return None if value is None else str(value)


def _rollouts(labelled: Sequence[Labelled]) -> Rollouts:
    """[B][N]. Scorers read the texts, so the answers have no tokens."""
    responses = tuple(
        tuple(
            Response(f"{one.prompt.id}/{at}", np.empty(0, np.int32), text, None, False, DRAW, 0, "", "dataset")
            for at, text in enumerate(one.answers)
        )
        for one in labelled
    )
    return Rollouts(0, tuple(one.prompt for one in labelled), responses)


def _accuracy(right: np.ndarray) -> dict[str, float]:
    known = right[~np.isnan(right)]
    return {"rows": len(right), "abstained": len(right) - len(known), **share_with_interval("accuracy", known)}
