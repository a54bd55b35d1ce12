"""`rlhf-flow doctor`: find what would stop a run before it takes a GPU."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Sequence
from dataclasses import asdict, replace

from rlhf_flow.cli.arguments import Arguments
from rlhf_flow.cli.plan import add_arguments, composed, room_of
from rlhf_flow.doctor import load, tokenizers
from rlhf_flow.doctor.checkpoints import Named, folder_of
from rlhf_flow.doctor.checks import Diagnosis, diagnose
from rlhf_flow.system.redact import redacted

LEVELS = {"ok": "ok      ", "warning": "WARNING ", "problem": "PROBLEM "}


def main(arguments: Sequence[str]) -> int:
    """Exit status 1 if there is a problem, else 0. Raises ValueError, or an error of Hydra, for a mistake."""
    parser = Arguments("rlhf-flow doctor")
    parser.add_argument("--load", action="store_true")
    options = add_arguments(parser).parse_intermixed_args(list(arguments))
    config = composed(options)
    diagnosis = diagnose(config, dict(os.environ), room_of(options, config))
    start = folder_of(Named("model.path", config.model.path, "policy", config.model.revision)) if options.load else None
    if start is not None and not diagnosis.broken:
        local = replace(config, model=replace(config.model, path=str(start)))
        diagnosis.findings.extend(load.findings(local))
    print(redacted(as_json(diagnosis) if options.json else "\n".join(page(diagnosis))))
    return 0 if diagnosis.sound else 1


def page(diagnosis: Diagnosis) -> Iterator[str]:
    """The lines of the report."""
    for finding in diagnosis.findings:
        message, remedy = finding.message.rstrip("."), finding.remedy.removeprefix("Fix: ").rstrip(".")
        yield f"{LEVELS[finding.level]}{finding.subject:10} {message}{f'. Fix: {remedy}' if remedy else ''}"
    if diagnosis.tokens:
        yield ""
        yield from tokenizers.table(diagnosis.tokens)
    counts = {level: sum(finding.level == level for finding in diagnosis.findings) for level in LEVELS}
    problems, warnings = _counted(counts["problem"], "problem"), _counted(counts["warning"], "warning")
    yield ""
    yield f"{problems}, {warnings}, {counts['ok']} ok"


def _counted(count: int, noun: str) -> str:
    return f"{count} {noun}" if count == 1 else f"{count} {noun}s"


def as_json(diagnosis: Diagnosis) -> str:
    return json.dumps(
        {
            "sound": diagnosis.sound,
            "findings": [asdict(finding) for finding in diagnosis.findings],
            "tokens": [asdict(row) for row in diagnosis.tokens],
        },
        indent=1,
    )
