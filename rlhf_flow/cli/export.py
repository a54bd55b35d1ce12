"""`rlhf-flow export`: the data and the policies of a run in the formats of other programs."""

from __future__ import annotations

from argparse import ArgumentParser, Namespace
from collections.abc import Sequence
from pathlib import Path

from rlhf_flow.cli.arguments import Arguments
from rlhf_flow.export import hub
from rlhf_flow.export.dataset import KINDS, write_dataset
from rlhf_flow.export.model import CARD, DTYPES, write_model
from rlhf_flow.report.card import data_card, in_repository
from rlhf_flow.storage.run_policies import split
from rlhf_flow.system.errors import ConfigError


def main(arguments: Sequence[str]) -> int:
    """Write what is asked for and print where it is. Raises ValueError for a mistake in the arguments or the run."""
    options = _parser().parse_args(arguments)
    if options.push is not None:
        hub.check_repo(options.push)
    elif options.dry_run or options.private:
        raise ValueError("--dry-run and --private are about --push. Fix: --push OWNER/NAME.")
    files = _model(options) if options.what == "model" else _data(options)
    if options.push is not None:
        kind = "model" if options.what == "model" else "dataset"
        print(hub.push(files, options.push, kind=kind, private=options.private, dry_run=options.dry_run))
    return 0


def _model(options: Namespace) -> hub.Files:
    folder, said = write_model(options.run, out=options.out, dtype=options.dtype)
    print(f"{folder}: {said}")
    files: dict[str, Path | bytes] = {**hub.files_of(folder)}
    if options.push is not None:
        files[CARD] = in_repository((folder / CARD).read_text(encoding="utf-8"), options.push).encode()
    return files


def _data(options: Namespace) -> hub.Files:
    run = Path(options.run)
    if (found := split(options.run)) is not None and found[1].isdecimal():
        raise ConfigError(
            f"{run} is a policy, and export {options.what} is of rounds", f"{found[0]} --rounds {found[1]}"
        )
    path, said = write_dataset(options.what, run, rounds=options.rounds, out=options.out)
    print(f"{path}: {said}")
    name = f"data/{path.name}"
    return {name: path, CARD: data_card(options.what, run, name).encode()}


def _parser() -> ArgumentParser:
    parser = Arguments("rlhf-flow export")
    parts = parser.add_subparsers(dest="what", required=True)
    for kind in (*KINDS, "model"):
        part = parts.add_parser(kind)
        part.add_argument("run", metavar="RUN")
        part.add_argument("--out", type=Path)
        part.add_argument("--push", metavar="OWNER/NAME")
        part.add_argument("--private", action="store_true")
        part.add_argument("--dry-run", action="store_true")
        if kind == "model":
            part.add_argument("--dtype", choices=DTYPES, default=DTYPES[0])
        else:
            part.add_argument("--rounds")
    return parser
