"""The command line: `rlhf-flow run` and the other commands; `python -m rlhf_flow` is the same program.

Help and `--cfg` import nothing heavy. Exit status: 0 done, 1 the run failed, 2 a mistake in the arguments,
130 interrupted, 143 terminated.
"""

from __future__ import annotations

import contextlib
import os
import sys
from collections.abc import Callable, Sequence
from functools import partial
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING

from rlhf_flow import __version__
from rlhf_flow.cli import pages
from rlhf_flow.cli.arguments import HELP, Arguments, help_wanted, hydra_options
from rlhf_flow.cli.interrupts import status_of
from rlhf_flow.cli.start import CONSOLES, DONE, FAILED, MISTAKEN, Ended, failed, mistaken, program, started
from rlhf_flow.system.redact import check_typed

if TYPE_CHECKING:
    from omegaconf import DictConfig

    from rlhf_flow.cluster.ray_persistent import OpenClusters
    from rlhf_flow.runner.api import Run


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command that the arguments name; return the exit status."""
    try:
        status = _main(arguments)
        sys.stdout.flush()
    except BrokenPipeError:  # the reader closed the pipe, as `head` does
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # else Python reports an error at exit
        return DONE
    except KeyboardInterrupt as interrupt:  # runs say how to go on before they end here
        return status_of(interrupt)
    return status


def _main(arguments: Sequence[str] | None) -> int:
    given = list(sys.argv[1:] if arguments is None else arguments)
    commands = _commands()
    if not given or given[0] in ("-h", "--help", "help"):
        print(pages.PROGRAM)
        return DONE if given else MISTAKEN
    name, rest = given[0], given[1:]
    if name in ("-V", "--version"):
        print(f"rlhf-flow {__version__}")
        return DONE
    if name in ("-sc", "--shell-completion"):  # the script in Hydra's manual asks in this way
        return completion(["words", os.environ.get("COMP_LINE", ""), ""])
    if name not in commands:
        return mistaken(f"there is no command {name!r}. Try {', '.join(commands)}, or --help.")
    if any(HELP.fullmatch(word) for word in rest):
        return _help(name, rest)
    if name in pages.NEED_ARGUMENTS and not rest:
        print(pages.OF[name])
        return MISTAKEN
    if (here := str(Path.cwd())) not in sys.path:
        sys.path.append(here)  # so that the console script finds the user's modules, as `python -m` does
    return commands[name](rest)


def _commands() -> dict[str, Callable[[list[str]], int]]:
    return {
        "run": run,
        "resume": _main_of("resume"),
        "compare": _main_of("compare"),
        "convert": _main_of("convert"),
        "export": _main_of("export"),
        "doctor": _composing("doctor"),
        "eval": _main_of("eval"),
        "plan": _composing("plan"),
        "init": _main_of("init"),
        "judgements": _main_of("judgements"),
        "label": _main_of("label"),
        "ls": _main_of("ls"),
        "new": _main_of("new"),
        "merge": _main_of("merge"),
        "chat": _main_of("chat"),
        "report": _main_of("report"),
        "sandbox": sandbox,
        "serve": serve,
        "sft": lambda arguments: _run("sft", arguments),
        "train-reward": lambda arguments: _run("train-reward", arguments),
        "verify": _main_of("verify"),
        "completion": completion,
    }


def _help(name: str, arguments: list[str]) -> int:
    """Print the page of a command, of an algorithm or of a part."""
    try:
        help_wanted(arguments)
        if name in pages.WITH_KEYS:
            from rlhf_flow.cli.help import page

            print(page(name, arguments))
        else:
            print(pages.OF[name])
    except Exception as error:
        return _unless_mistake(error)
    return DONE


def _main_of(command: str) -> Callable[[list[str]], int]:
    """`main` of the command's module, imported on use. A mistake becomes one paragraph."""

    def run(arguments: list[str]) -> int:
        try:
            return int(import_module(f"rlhf_flow.cli.{command}").main(arguments))
        except Exception as error:
            return _unless_mistake(error)

    return run


def _composing(command: str) -> Callable[[list[str]], int]:
    """As `_main_of`, for a command that takes the arguments of `rlhf-flow run`."""

    def run(arguments: list[str]) -> int:
        from rlhf_flow.cli.errors import no_option
        from rlhf_flow.config.overrides import expanded

        if wrong := no_option(arguments):
            return mistaken(wrong)
        try:
            overrides = expanded(arguments)
        except ValueError as error:
            return mistaken(str(error))
        return _main_of(command)(overrides)

    return run


def _unless_mistake(error: Exception) -> int:
    """Print a mistake in what was asked. Raises any other error."""
    from rlhf_flow.cli import errors

    if not isinstance(error, errors.Mistake):
        raise error
    return mistaken(errors.mistake(error))


def run(arguments: list[str], clusters: OpenClusters | None = None) -> int:
    """`rlhf-flow run [overrides]`: compose the configuration with Hydra and run it; with --multirun, each of them.

    `clusters`: where a caller in the same process keeps a persistent cluster between several calls.
    """
    return _run("run", arguments, clusters)


def _run(name: str, given: list[str], clusters: OpenClusters | None = None) -> int:
    if {"-sc", "--shell-completion"} & set(given):
        return completion(["bash"])
    from rlhf_flow.config.overrides import expanded

    try:
        arguments = expanded([CONSOLES.get(argument, argument) for argument in given])
    except ValueError as error:
        return mistaken(str(error))
    from rlhf_flow.cluster.ray_persistent import OpenClusters

    start = partial(started, program=program(), given=[name, *given])
    with contextlib.closing(OpenClusters()) as own:
        jobs = partial(_job, arguments=arguments, start=partial(start, clusters=clusters or own))
        return _composed(name, arguments, jobs)


def _composed(name: str, arguments: list[str], job: Callable[[DictConfig], Ended]) -> int:
    """Call `job` with each configuration that Hydra composes; return the highest exit status."""
    from rlhf_flow.cli import errors, hydra_jobs

    if wrong := errors.no_option(arguments):
        return mistaken(wrong)
    try:
        check_typed(arguments)
        hydra_options(f"rlhf-flow {name}").parse_intermixed_args(arguments)
        if hydra_jobs.shows(arguments):
            print(hydra_jobs.page(name, arguments))
            return DONE
        return max([DONE, *hydra_jobs.each(name, arguments, job)])
    except errors.Mistake as error:
        return mistaken(errors.mistake(error))
    except hydra_jobs.JobFailedError as error:
        print(f"rlhf-flow: a run of the sweep failed: {error}", file=sys.stderr)
        return FAILED
    except KeyboardInterrupt as interrupt:
        return status_of(interrupt)


def _job(composed: DictConfig, arguments: list[str], start: Callable[[Callable[[], Run]], Ended]) -> Ended:
    """Start the run of a composed configuration."""
    from rlhf_flow.cli import hydra_jobs
    from rlhf_flow.config import compose
    from rlhf_flow.runner.api import Run

    def made() -> Run:
        config = compose.build(hydra_jobs.in_its_own_folder(composed, arguments), hydra_jobs.overrides())
        return Run(config, choices=hydra_jobs.choices())

    return start(made)


def sandbox(arguments: list[str]) -> int:
    """`rlhf-flow sandbox`: build the sandbox world, once."""
    from rlhf_flow.sandbox.__main__ import show

    parser = Arguments("rlhf-flow sandbox")
    parser.add_argument("--root", type=Path)
    try:
        root = parser.parse_args(arguments).root
    except ValueError as error:
        return mistaken(str(error))
    show(root)
    return DONE


def serve(arguments: list[str]) -> int:
    """`rlhf-flow serve [overrides]`: compose a scorer with Hydra and serve it over HTTP until a signal."""
    from rlhf_flow.serve import config

    config.register()
    return _composed("serve", arguments, _serve)


def _serve(composed: DictConfig) -> Ended:
    from rlhf_flow.cli import errors
    from rlhf_flow.cli.serve import serve
    from rlhf_flow.serve import config

    try:
        serve(config.build(composed))
    except errors.Mistake as error:
        return Ended(mistaken(errors.mistake(error)))
    except Exception as error:
        return Ended(failed("the server", error))
    return Ended(DONE)


def completion(arguments: list[str]) -> int:
    """`rlhf-flow completion SHELL`: the script for a shell, which calls `rlhf-flow completion words LINE BREAKS`."""
    from rlhf_flow.cli.completion import SCRIPTS, words

    match arguments:
        case [shell] if shell in SCRIPTS:
            print(SCRIPTS[shell].rstrip())
        case ["words", line, breaks]:
            for word in words(line, breaks, [*_commands()]):
                print(word)
        case _:
            return mistaken(
                f"completion {' '.join(arguments)}: there is no such script. Fix: one of {', '.join(SCRIPTS)}."
            )
    return DONE


if __name__ == "__main__":
    sys.exit(main())
