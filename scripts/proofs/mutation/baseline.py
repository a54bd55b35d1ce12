"""The tests and claims that run on each mutant, and how long they take without a mutant."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from mutation.imports import Imports
from mutation.operators import Mutant
from mutation.running import Job, Tree, run


class BaselineError(Exception):
    """A test or a claim fails without any mutant."""


@dataclass(frozen=True)
class Kind:
    """Tests or claims, and their limits in seconds of processor time."""

    name: str
    of: Callable[[Imports, str], Mapping[str, int]]  # those of a file: 0 for those that run first, 1 for the rest
    each: float  # slower ones do not run
    all: float  # limit per mutant, at the speed without a mutant


KINDS = (Kind("tests", Imports.tests, 600.0, math.inf), Kind("claims", Imports.claims, 10.0, 30.0))


def jobs(
    kind: Kind,
    mutants: Sequence[Mutant],
    imports: Imports,
    trees: Sequence[Tree],
    seed: int,
    progress: Callable[[str], None],
) -> list[Job]:
    """A job for each mutant. It runs what is nearest to the file first, and of that the fastest.

    Raises BaselineError if a test or a claim fails without a mutant.
    """
    of = {mutant.path: kind.of(imports, mutant.path) for mutant in mutants}
    seconds: dict[str, float] = {}
    alone = [Job((asked,), kind.each) for asked in dict.fromkeys(asked for some in of.values() for asked in some)]
    for done, (job, outcome, tree) in enumerate(run(alone, trees, seed), start=1):
        if outcome.red and not outcome.late:
            raise BaselineError(f"{tree.log.read_text(encoding='utf-8')[-3000:]}\nred without a mutant: {outcome.red}")
        if not outcome.red:
            seconds[job.asked[0]] = outcome.seconds
        progress(f"{kind.name} without a mutant: {done} of {len(alone)}")
    return [_job(mutant, of[mutant.path], seconds, kind.all) for mutant in mutants]


def _job(mutant: Mutant, of: Mapping[str, int], seconds: Mapping[str, float], most: float) -> Job:
    asked, spent = [], 0.0
    for one in sorted(of.keys() & seconds.keys(), key=lambda one: (of[one], seconds[one])):
        if spent + seconds[one] <= most:
            asked.append(one)
            spent += seconds[one]
    return Job(tuple(asked), 30 + 5 * spent, mutant)  # a job that takes longer counts as hanging
