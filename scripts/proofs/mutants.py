"""Mutation testing: change each formula, one place at a time, and check that a test or a claim fails.

    python scripts/proofs/mutants.py                        # objectives, selectors, samplers, schedules, replay
    python scripts/proofs/mutants.py --only objective/xpo   # the files whose path contains this, or one of several
    python scripts/proofs/mutants.py --list                 # print the mutants without running any

`mutation/operators.py` defines the mutations, `mutation/imports.py` selects the tests and claims for a mutant, and
`mutation/equivalents.py` lists the mutants that no test can detect, with proofs. Mutants are written to temporary
copies of the repository. Exit status 1 if tests and claims detect fewer than 95 % of the other mutants, 2 if one fails
without a mutant.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from mutation.baseline import KINDS, BaselineError, jobs
from mutation.equivalents import EQUIVALENTS, Equivalent, proof, stale
from mutation.imports import Imports, mutated_files
from mutation.operators import Mutant, mutants
from mutation.running import Tree, run, warm_up

ROOT = Path(__file__).parents[2]
ENOUGH = 0.95
STATES = ("red", "equivalent", "survived")


@dataclass(frozen=True)
class Tried:
    """The result of a mutant."""

    mutant: Mutant
    state: str  # one of STATES
    why: str = ""  # the test or the claim that failed, or the proof
    seconds: float = 0.0  # of processor time


def drill(found: Sequence[Mutant], known: Sequence[Equivalent], trees: Sequence[Tree], seed: int) -> list[Tried]:
    """Run the tests on every mutant that is not known to be equivalent, and the claims if no test fails."""
    warm_up()
    imports, progress = Imports(trees[0].folder), Progress()
    tried = {one: Tried(one, "equivalent", why) for one in found if (why := proof(known, one))}
    left = [one for one in found if one not in tried]
    for kind in KINDS:
        put = jobs(kind, left, imports, trees, seed, progress)
        began, red = time.monotonic(), 0
        for done, (job, outcome, _) in enumerate(run(put, trees, seed), start=1):
            assert job.mutant is not None
            seconds = outcome.seconds + (tried[job.mutant].seconds if job.mutant in tried else 0.0)
            tried[job.mutant] = Tried(job.mutant, "red" if outcome.red else "survived", outcome.red, seconds)
            red += bool(outcome.red)
            each = (time.monotonic() - began) / done
            progress(
                f"{kind.name}: {done} of {len(put)} mutants, {red} red; "
                f"{each:.1f} s each, {each * (len(put) - done) / 60:.0f} min left"
            )
        left = [one for one in left if tried[one].state == "survived"]
    return [tried[one] for one in found]


class Progress:
    """On a terminal, a line that is updated in place; otherwise a line every ten seconds."""

    def __init__(self) -> None:
        self._next = 0.0

    def __call__(self, line: str) -> None:
        if sys.stdout.isatty():
            print(f"\r\x1b[K{line}", end="", flush=True)
        elif time.monotonic() >= self._next:
            print(line, flush=True)
            self._next = time.monotonic() + 10


def share(tried: Iterable[Tried]) -> float:
    """The share of detected mutants among those that are not equivalent."""
    states = Counter(one.state for one in tried)
    noticeable = states["red"] + states["survived"]
    return states["red"] / noticeable if noticeable else 1.0


def report(tried: Sequence[Tried]) -> str:
    """A table by file, every surviving mutant with its line, and the share that was detected."""
    paths = {one.mutant.path: Counter[str]() for one in tried}
    for one in tried:
        paths[one.mutant.path][one.state] += 1
    lines = [f"{'file':38}{'mutants':>9}" + "".join(f"{state:>12}" for state in STATES)]
    for path, states in (*paths.items(), ("all", sum(paths.values(), Counter[str]()))):
        lines.append(f"{path:38}{states.total():9}" + "".join(f"{states[state]:12}" for state in STATES))
    for one in tried:
        if one.state == "survived":
            lines += ["", f"survived: {one.mutant.path}:{one.mutant.line}, {one.mutant.operator}", one.mutant.diff]
    return "\n".join([*lines, "", f"red, of those not proven equivalent: {share(tried):.1%}"])


def as_json(tried: Sequence[Tried]) -> str:
    mutated = [
        {key: value for key, value in vars(one.mutant).items() if key != "source"}
        | {"state": one.state, "why": one.why, "seconds": round(one.seconds, 2)}
        for one in tried
    ]
    return json.dumps({"red": share(tried), "mutants": mutated}, indent=1)


def main(
    arguments: Sequence[str] | None = None, *, root: Path = ROOT, known: Sequence[Equivalent] = EQUIVALENTS
) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", nargs="+", default=[""], metavar="PART", help="only files whose path contains one")
    parser.add_argument("--jobs", type=int, default=2, metavar="N", help="mutants in parallel (default: 2)")
    parser.add_argument("--list", action="store_true", help="print the mutants without running any")
    parser.add_argument("--seed", type=int, default=0, help="of the claims and of hypothesis (default: 0)")
    parser.add_argument("--json", type=Path, metavar="FILE", help="also write the result of every mutant")
    asked = parser.parse_args(arguments)
    with tempfile.TemporaryDirectory() as folder:
        # further copies are made from this one, because the repository may change meanwhile
        copy = Tree(root, Path(folder) / "0")
        every = [one for path in mutated_files(copy.folder) for one in mutants(path, copy.read(path))]
        found = [one for one in every if any(part in one.path for part in asked.only)]
        if wrong := stale(known, every):
            print("\n".join(f"{one.path}: matches no mutant or several\n{one.diff}" for one in wrong))
            return 2
        if not found:
            print(f"no file that is mutated has {' or '.join(asked.only)} in its path")
            return 2
        if asked.list:
            for one in found:
                why = proof(known, one)
                print(f"{one.path}:{one.line}, {one.operator}{f': equivalent, {why}' if why else ''}\n{one.diff}")
            print(f"{len(found)} mutants, {sum(proof(known, one) is not None for one in found)} of them equivalent")
            return 0
        trees = [copy, *(Tree(copy.folder, Path(folder) / str(number)) for number in range(1, asked.jobs))]
        try:
            tried = drill(found, known, trees, asked.seed)
        except BaselineError as red:
            print(f"\n{red}")
            return 2
    print(f"\n{report(tried)}")
    if asked.json is not None:
        asked.json.write_text(as_json(tried), encoding="utf-8")
    return 0 if share(tried) >= ENOUGH else 1


if __name__ == "__main__":
    sys.exit(main())
