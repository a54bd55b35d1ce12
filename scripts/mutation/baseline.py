"""What mutants are put to, and how long that takes where nothing is wrong."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from mutation.imports import Imports, named_after
from mutation.operators import Mutant
from mutation.running import Job, Tree, run


class BaselineError(Exception):
    """A test or a claim fails without any mutant."""


@dataclass(frozen=True)
class Kind:
    """Tests or claims, and the seconds of processor time that they are given."""

    name: str
    of: Callable[[Imports, str], list[str]]  # those of a file
    each: float  # what takes longer is not asked
    all: float  # what one mutant is put to: the quick ones


KINDS = (Kind("tests", Imports.tests, 600.0, math.inf), Kind("claims", Imports.claims, 10.0, 60.0))


def jobs(
    kind: Kind,
    mutants: Sequence[Mutant],
    imports: Imports,
    trees: Sequence[Tree],
    seed: int,
    progress: Callable[[str], None],
) -> list[Job]:
    """What each mutant is put to: first what is named after its file, then the rest, the quick ones first.

    Raises BaselineError where something fails without a mutant.
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


def _job(mutant: Mutant, of: Sequence[str], seconds: dict[str, float], most: float) -> Job:
    asked, spent, named = [], 0.0, named_after(mutant.path)
    for one in sorted((one for one in of if one in seconds), key=lambda one: (one != named, seconds[one])):
        if spent + seconds[one] <= most:
            asked.append(one)
            spent += seconds[one]
    return Job(tuple(asked), 30 + 5 * spent, mutant)  # what takes longer than this hangs
