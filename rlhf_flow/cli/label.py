"""`rlhf-flow label RUN`: show the questions of a run in the browser until a signal."""

from __future__ import annotations

import signal
from collections.abc import Sequence
from pathlib import Path

from rlhf_flow.cli.arguments import Arguments
from rlhf_flow.label.app import SECONDS, application
from rlhf_flow.label.exchange import export_labels, import_labels
from rlhf_flow.scorer.human.annotations import FILE, Annotations
from rlhf_flow.scorer.human.annotators import Annotators
from rlhf_flow.system.http_guard import names, uvicorn_server
from rlhf_flow.system.loopback import address, is_loopback, listening
from rlhf_flow.system.optional_deps import require
from rlhf_flow.system.redact import token_in

LAST_SECONDS = 5  # for requests in progress when the server stops


def main(arguments: Sequence[str]) -> int:
    """Serve until SIGINT or SIGTERM; return the exit status. Raises ValueError for a mistake in the arguments."""
    options = _parser().parse_args(arguments)
    if options.source is not None or options.target is not None:
        return _exchange(options.run, source=options.source, target=options.target)
    for package in ("fastapi", "markdown_it", "uvicorn"):
        require(package, part="rlhf-flow label", extras=("label",), instead="another scorer than people")
    folder = labels_of(options.run)
    token = _token(options.host, options.token_env)
    annotations = Annotations(folder)
    try:
        for annotator in options.release:
            Annotators(annotations).release(annotator)
        with listening(options.host, options.port) as listener:
            host_names = names(options.host, options.name)
            app = application(annotations, run=options.run.resolve().name, token=token, names=host_names)
            server = uvicorn_server(app, head=SECONDS, grace=LAST_SECONDS)
            print(f"labelling {options.run} at {address(listener)}", flush=True)
            for number in (signal.SIGINT, signal.SIGTERM):
                signal.signal(number, lambda *_: None)  # uvicorn stops at a signal, then raises it again
            server.run(sockets=[listener])
    finally:
        annotations.close()
    return 0


def _exchange(run: Path, *, source: str | None, target: Path | None) -> int:
    """Import labels from a file, then export to one."""
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
    """The folder of a run's labels, or `run` itself if it holds labels. Raises ValueError if `run` is not a run."""
    if (run / FILE).is_file():
        return run
    if (run / "config.yaml").is_file() or (run / "labels").is_dir():
        return run / "labels"
    raise ValueError(
        f"{run} is not the folder of a run. Fix: start the run first (rlhf-flow run scorer=human run_dir=...), "
        "and give its run_dir or its scorer.folder."
    )


def _parser() -> Arguments:
    parser = Arguments("rlhf-flow label")
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
        f"--host {host}: other machines can reach it, so annotators need a token. Fix: export "
        "LABEL_TOKEN=$(openssl rand -hex 16) and --token-env LABEL_TOKEN, or --host 127.0.0.1."
    )
