"""Look for what would stop a run, before it takes a GPU: `rlhf-flow doctor`."""

from __future__ import annotations

import argparse
import json
import os
from collections.abc import Iterator, Sequence
from dataclasses import asdict, replace

from rlhf_flow.capacity.fit import room
from rlhf_flow.capacity.process_memory import size_of
from rlhf_flow.config import compose as configuration
from rlhf_flow.doctor import load
from rlhf_flow.doctor import tokenizers as tokens
from rlhf_flow.doctor.checkpoints import Named, folder_of
from rlhf_flow.doctor.checks import Diagnosis, diagnose
from rlhf_flow.system.redact import redacted

MARKS = {"ok": "ok      ", "warning": "WARNING ", "problem": "PROBLEM "}


def main(arguments: Sequence[str]) -> int:
    """Exit status 0 without a problem, 1 with one. Raises ValueError, or what Hydra does, for a mistake."""
    parser = argparse.ArgumentParser(prog="rlhf-flow doctor", description=__doc__, allow_abbrev=False)
    parser.add_argument("--memory", metavar="SIZE", help="of each GPU, or of a host without any; else as here")
    parser.add_argument("--gpus", type=int, metavar="N", help="how many there will be; else as here")
    parser.add_argument("--load", action="store_true", help="also load what the run would load, and publish it")
    parser.add_argument("--json", action="store_true", help="print what was found as JSON")
    parser.add_argument("--config-dir", "-cd", action="append", default=[], help="where to look for files as well")
    parser.add_argument("--config-name", "-cn", default="run", help="run, or train-reward")
    parser.add_argument("overrides", nargs="*", help="those of `rlhf-flow run`")
    asked = parser.parse_intermixed_args(list(arguments))
    config = configuration.compose(*asked.overrides, name=asked.config_name, folders=asked.config_dir)
    there = room(None if asked.memory is None else size_of(asked.memory), asked.gpus)
    diagnosis = diagnose(config, dict(os.environ), there)
    start = folder_of(Named("model.path", config.model.path, "policy", config.model.revision)) if asked.load else None
    if start is not None and not diagnosis.broken:
        local = replace(config, model=replace(config.model, path=str(start)))
        diagnosis.findings.extend(load.findings(local))
    print(redacted(as_json(diagnosis) if asked.json else "\n".join(page(diagnosis))))
    return 0 if diagnosis.sound else 1


def page(diagnosis: Diagnosis) -> Iterator[str]:
    for finding in diagnosis.findings:
        told = finding.way_out  # a refusal brings its own verb
        way_out = "" if not told else f". {told}" if told.startswith(("Try ", "Fix: ")) else f". Try: {told}"
        yield f"{MARKS[finding.level]}{finding.subject:10} {finding.says}{way_out}"
    if diagnosis.tokens:
        yield ""
        yield from tokens.table(diagnosis.tokens)
    counts = {level: sum(finding.level == level for finding in diagnosis.findings) for level in MARKS}
    yield ""
    problems, warnings = _number(counts["problem"], "problem"), _number(counts["warning"], "warning")
    yield f"{problems}, {warnings}, {counts['ok']} fine"


def _number(count: int, noun: str) -> str:
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
