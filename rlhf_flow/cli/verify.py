"""`rlhf-flow verify`: check the claims of the papers in parallel and print the results."""

from __future__ import annotations

import json
import multiprocessing
import os
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import asdict, dataclass
from pathlib import Path

from rich.console import Console
from rich.table import Table

from rlhf_flow.cli.arguments import Arguments
from rlhf_flow.verify.claim import Claim, Finding
from rlhf_flow.verify.claims import CLAIMS


@dataclass(frozen=True)
class Checked:
    """The result of a claim."""

    claim: str  # its id
    findings: tuple[Finding, ...]
    seconds: float
    error: str = ""  # if the check failed to run

    @property
    def holds(self) -> bool:
        return not self.error and bool(self.findings) and all(finding.holds for finding in self.findings)


def chosen(only: Sequence[str]) -> tuple[Claim, ...]:
    """The claims whose id (V1a), family (V1) or start of the method is in `only`; all if it is empty.

    Raises ValueError for a word that matches no claim.
    """
    for word in only:
        if not any(_fits(claim, word) for claim in CLAIMS):
            names = ", ".join(claim.id for claim in CLAIMS)
            raise ValueError(f"--only {word} matches no claim. Try one of {names}, or the start of a method.")
    return tuple(claim for claim in CLAIMS if not only or any(_fits(claim, word) for word in only))


def _fits(claim: Claim, word: str) -> bool:
    family = claim.id.rstrip("abcde")
    return word.lower() in (claim.id.lower(), family.lower()) or claim.method.lower().startswith(word.lower())


def check(id: str, seed: int) -> Checked:
    """Check one claim in this process, on one thread, since claims run in parallel."""
    import torch

    torch.set_num_threads(1)
    (claim,) = (claim for claim in CLAIMS if claim.id == id)
    began = time.perf_counter()
    try:
        findings, error = tuple(claim.check(seed)), ""
    except Exception as failure:  # it counts as failed, and the other claims go on
        findings, error = (), f"{type(failure).__name__}: {failure}"
    return Checked(id, findings, time.perf_counter() - began, error)


def checked(claims: Sequence[Claim], *, seed: int, jobs: int) -> Iterator[Checked]:
    """The results as they arrive; the slowest claims start first, `jobs` at a time."""
    # spawn: a forked child would inherit torch's threads in an undefined state
    with ProcessPoolExecutor(jobs, mp_context=multiprocessing.get_context("spawn")) as pool:
        slowest_first = sorted(claims, key=lambda claim: -claim.seconds)
        waiting = [pool.submit(check, claim.id, seed) for claim in slowest_first]
        for done in as_completed(waiting):
            yield done.result()


def table(claims: Sequence[Claim], results: Sequence[Checked]) -> Table:
    """One row per finding: claim, paper, measured, threshold, verdict."""
    by_id = {result.claim: result for result in results}
    shown = Table(box=None, pad_edge=False, header_style="bold")
    for name in ("id", "claim", "paper", "found", "measured", "threshold", "verdict"):
        shown.add_column(name, justify="right" if name == "measured" else "left", overflow="fold")
    for claim in claims:
        result = by_id[claim.id]
        rows = [(one.what, f"{one.measured:.3g}", one.rule, one.holds) for one in result.findings]
        if result.error:
            rows.append((result.error, "—", "", False))
        head = [claim.id, f"{claim.method}: {claim.says}", claim.paper]
        for what, measured, rule, holds in rows:
            shown.add_row(*head, what, measured, rule, "[green]holds[/]" if holds else "[red]FAILS[/]")
            head = ["", "", ""]
    return shown


def markdown(claims: Sequence[Claim], results: Sequence[Checked]) -> str:
    """The table as Markdown: one row per claim, with its findings in the order of the full table."""
    by_id = {result.claim: result for result in results}
    lines = ["| id | claim (paper) | measured | threshold |", "|---|---|---|---|"]
    for claim in claims:
        found = by_id[claim.id].findings
        measured = " · ".join(f"{one.measured:.3g}" + ("" if one.holds else " **fails**") for one in found)
        rules = " · ".join(one.rule for one in found)
        lines.append(f"| {claim.id} | {claim.method}: {claim.says} ({claim.paper}) | {measured} | {rules} |")
    return "\n".join(lines)


def as_json(claims: Sequence[Claim], results: Sequence[Checked], *, seed: int) -> str:
    by_id = {result.claim: result for result in results}
    facts = [
        {"id": claim.id, "method": claim.method, "says": claim.says, "paper": claim.paper}
        | {"holds": by_id[claim.id].holds, **asdict(by_id[claim.id])}
        for claim in claims
    ]
    return json.dumps({"seed": seed, "claims": facts}, indent=1)


def main(arguments: Sequence[str]) -> int:
    """Exit status 0 if all claims hold, else 1. Raises ValueError for a mistake in the arguments."""
    parser = Arguments("rlhf-flow verify")
    parser.add_argument("--only", nargs="+", default=[], metavar="CLAIM")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--jobs", type=int, default=os.cpu_count() or 1)
    parser.add_argument("--json", type=Path)
    parser.add_argument("--markdown", action="store_true")
    options = parser.parse_args(list(arguments))
    claims = chosen(options.only)
    console, results = Console(width=None if os.isatty(1) else 200), []
    began = time.perf_counter()
    for result in checked(claims, seed=options.seed, jobs=options.jobs):
        results.append(result)
        verdict = "holds" if result.holds else "FAILS"
        print(f"{len(results)}/{len(claims)} {result.claim} {verdict} ({result.seconds:.1f} s)", flush=True)
    print(markdown(claims, results)) if options.markdown else console.print(table(claims, results))
    if options.json is not None:
        options.json.write_text(as_json(claims, results, seed=options.seed))
    failed = [result.claim for result in results if not result.holds]
    seconds = time.perf_counter() - began
    print(f"{len(claims) - len(failed)} of {len(claims)} claims hold, {seconds:.0f} s" + _named(failed))
    return 1 if failed else 0


def _named(failed: Sequence[str]) -> str:
    return f"; failed: {', '.join(failed)}" if failed else ""
