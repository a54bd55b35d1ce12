"""`rlhf-flow label RUN`: show the questions of a run in the browser, until a signal ends it."""

from __future__ import annotations

import argparse
import signal
from collections.abc import Sequence
from pathlib import Path

from rlhf_flow.label.app import SECONDS, application
from rlhf_flow.label.exchange import export_labels, import_labels
from rlhf_flow.scorer.human.annotations import FILE, Annotations
from rlhf_flow.scorer.human.annotators import Annotators
from rlhf_flow.system.http_guard import names, uvicorn_server
from rlhf_flow.system.loopback import address, is_loopback, listening
from rlhf_flow.system.optional_deps import require
from rlhf_flow.system.redact import token_in

LAST_SECONDS = 5  # that requests may take which are there when the server is told to end


def main(arguments: Sequence[str]) -> int:
    """Serve until SIGINT or SIGTERM; return the exit status. Raises ValueError for a mistake in what was asked."""
    asked = _parser().parse_args(arguments)
    if asked.source is not None or asked.target is not None:
        return _exchange(asked.run, source=asked.source, target=asked.target)
    for package in ("fastapi", "markdown_it", "uvicorn"):
        require(package, part="rlhf-flow label", extras=("label",), instead="another scorer than people")
    folder = labels_of(asked.run)
    token = _token(asked.host, asked.token_env)
    annotations = Annotations(folder)
    try:
        for annotator in asked.release:
            Annotators(annotations).release(annotator)
        with listening(asked.host, asked.port) as listener:
            called = names(asked.host, asked.name)
            app = application(annotations, run=asked.run.resolve().name, token=token, names=called)
            server = uvicorn_server(app, head=SECONDS, grace=LAST_SECONDS)
            print(f"labelling {asked.run} at {address(listener)}", flush=True)
            for number in (signal.SIGINT, signal.SIGTERM):
                signal.signal(number, lambda *_: None)  # uvicorn ends at a signal, and then raises it again
            server.run(sockets=[listener])
    finally:
        annotations.close()
    return 0


def _exchange(run: Path, *, source: str | None, target: Path | None) -> int:
    """Import labels from a file, then export to one; serve nothing."""
    folder = run / "labels" if source is not None and not run.exists() else labels_of(run)
    annotations = Annotations(folder)
    try:
        if source is not None:
            print(import_labels(annotations, source))
        if target is not None:
            print(export_labels(annotations, target))
    finally:
        annotations.close()
    return 0


def labels_of(run: Path) -> Path:
    """The folder of a run's labels; `run` itself where they lie there. Raises ValueError where `run` is no run."""
    if (run / FILE).is_file():
        return run
    if (run / "config.yaml").is_file() or (run / "labels").is_dir():
        return run / "labels"
    raise ValueError(
        f"rlhf-flow label needs the folder of a run, and {run} is none. Start the run first (rlhf-flow run "
        "scorer=human run_dir=...), and name its run_dir, or its scorer.folder."
    )


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="rlhf-flow label", allow_abbrev=False)
    parser.add_argument("run", type=Path, metavar="RUN")
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--port", type=int, default=8765)
    parser.add_argument("--token-env", metavar="VARIABLE")
    parser.add_argument("--import", metavar="FILE", dest="source")
    parser.add_argument("--export", metavar="FILE", dest="target", type=Path)
    parser.add_argument("--name", action="append", default=[])
    parser.add_argument("--release", action="append", default=[], metavar="ANNOTATOR")
    return parser


def _token(host: str, variable: str | None) -> str | None:
    if variable is not None:
        return token_in("--token-env", variable)
    if is_loopback(host):
        return None
    raise ValueError(
        f"--host {host} can be reached from other machines, so annotators must show a token. Put one into an "
        "environment variable and name it with --token-env NAME, or use --host 127.0.0.1. "
        "Fix: export LABEL_TOKEN=$(openssl rand -hex 16), and --token-env LABEL_TOKEN."
    )
