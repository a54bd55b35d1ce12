"""The command line: `rlhf-flow run` and the other commands; `python -m rlhf_flow` is the same program.

Nothing heavy is imported for help or for a look at the configuration. Exit status: 0 done, 1 a failure of the run,
2 a mistake in what was asked, 130 interrupted.
"""

from __future__ import annotations

import os
import shlex
import sys
import traceback
from collections.abc import Callable, Sequence
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING

from rlhf_flow import __version__
from rlhf_flow.cli import pages
from rlhf_flow.system.redact import check_typed, redacted

if TYPE_CHECKING:
    from omegaconf import DictConfig

DONE, FAILED, MISTAKEN, INTERRUPTED = 0, 1, 2, 130


def main(arguments: Sequence[str] | None = None) -> int:
    """Do what the arguments say; return the exit status."""
    try:
        status = _main(arguments)
        sys.stdout.flush()
    except BrokenPipeError:  # the reader of the page left, as `head` does
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # or Python complains as it ends
        return DONE
    return status


def _main(arguments: Sequence[str] | None) -> int:
    given = list(sys.argv[1:] if arguments is None else arguments)
    commands = _commands()
    if not given or given[0] in ("-h", "--help", "help"):
        print(pages.PROGRAM)
        return DONE if given else MISTAKEN
    if given[0] in ("-V", "--version"):
        print(f"rlhf-flow {__version__}")
        return DONE
    if given[0] in ("-sc", "--shell-completion"):  # how the script that Hydra's manual tells of asks
        return completion(["words", os.environ.get("COMP_LINE", ""), ""])
    if given[0] not in commands:
        return _mistaken(f"there is no command {given[0]!r}. Try {', '.join(commands)}, or --help.")
    if given[0] in pages.OF and {"-h", "--help"} & set(given[1:]):
        print(pages.OF[given[0]])
        return DONE
    if (here := str(Path.cwd())) not in sys.path:
        sys.path.append(here)  # the console script finds modules of one's own where `python -m` does
    return commands[given[0]](given[1:])


def _commands() -> dict[str, Callable[[list[str]], int]]:
    return {
        "run": run,
        "convert": _main_of("rlhf_flow.cli.convert"),
        "doctor": doctor,
        "plan": plan,
        "init": init,
        "judgements": _main_of("rlhf_flow.cli.judgements"),
        "label": label,
        "report": report,
        "sandbox": sandbox,
        "serve": serve,
        "train-reward": train_reward,
        "verify": _main_of("rlhf_flow.cli.verify"),
        "completion": completion,
    }


def run(arguments: list[str]) -> int:
    """`rlhf-flow run [overrides]`: compose the configuration with Hydra, and run it (all of them under --multirun)."""
    if any(argument in ("-h", "--help") or argument.startswith("--help=") for argument in arguments):
        from rlhf_flow.cli import help as manual

        print(manual.run(arguments))
        return DONE
    return _run("run", arguments)


def train_reward(arguments: list[str]) -> int:
    """`rlhf-flow train-reward [overrides]`: the same with a learner of rewards, on answers that came with prompts."""
    return _run("train-reward", arguments)


def _run(name: str, given: list[str]) -> int:
    if {"-sc", "--shell-completion"} & set(given):
        return completion(["bash"])
    command = "rlhf-flow" if Path(sys.argv[0]).name == "rlhf-flow" else f"{shlex.quote(sys.executable)} -m rlhf_flow"
    again = f"{command} {name} {redacted(shlex.join(given))}"
    from rlhf_flow.config.overrides import expanded

    try:
        arguments = expanded(given)
    except ValueError as error:
        return _mistaken(str(error))
    return _composed(name, arguments, lambda composed: _job(composed, arguments, again=again))


def _composed(name: str, arguments: list[str], job: Callable[[DictConfig], int]) -> int:
    """Do a job on each configuration `name` that Hydra composes of the arguments; return the highest exit status."""
    from rlhf_flow.cli import errors as explain
    from rlhf_flow.cli import hydra_jobs

    if wrong := explain.no_option(arguments):
        return _mistaken(wrong)
    try:
        check_typed(arguments)
        if hydra_jobs.shows(arguments):
            print(hydra_jobs.page(name, arguments))
            return DONE
        return max([DONE, *hydra_jobs.each(name, arguments, job)])
    except explain.Mistake as error:
        return _mistaken(explain.mistake(error))
    except KeyboardInterrupt:
        return INTERRUPTED


def _job(composed: DictConfig, arguments: list[str], *, again: str) -> int:
    """One run, from its composed configuration to its end."""
    from rlhf_flow.cli import errors as explain
    from rlhf_flow.cli import hydra_jobs
    from rlhf_flow.config import compose as config
    from rlhf_flow.metrics.alarms import AlarmError
    from rlhf_flow.metrics.off_policy import GateError
    from rlhf_flow.runner import prepare as build

    try:
        try:
            asked = config.build(hydra_jobs.in_its_own_folder(composed, arguments), hydra_jobs.overrides())
            prepared = build.prepare(asked)
        except explain.Mistake as error:
            return _mistaken(explain.mistake(error))
        prepared.run()
    except KeyboardInterrupt:
        stays = "What was committed stays. The same command goes on where it stopped"
        print(f"\nrlhf-flow: stopped. {stays}: {again}", file=sys.stderr)
        raise
    except build.RefusedError as refusal:
        return _mistaken(" ".join(str(refusal).split()))
    except (AlarmError, GateError) as stop:  # it says itself what to change, and whether to go on
        print(f"rlhf-flow: {stop}", file=sys.stderr)
        return FAILED
    except Exception as error:
        _show_traceback()
        way_on = "What was committed stays. Once the cause is removed, the same command goes on where it stopped"
        print(f"rlhf-flow: the run failed: {_cause(error)}\n{way_on}: {again}", file=sys.stderr)
        return FAILED
    return DONE


def _cause(error: Exception) -> str:
    """What an error says, and its class if that is nothing."""
    return redacted(str(error)) or type(error).__name__


def doctor(arguments: list[str]) -> int:
    """`rlhf-flow doctor [overrides]`: look for what would stop a run, before it takes a GPU."""
    from rlhf_flow.cli.doctor import main as look

    return _before_a_run(look, arguments)


def plan(arguments: list[str]) -> int:
    """`rlhf-flow plan [overrides]`: tell what a run would take."""
    from rlhf_flow.cli.plan import main as tell

    return _before_a_run(tell, arguments)


def _before_a_run(command: Callable[[list[str]], int], arguments: list[str]) -> int:
    from rlhf_flow.cli import errors as explain
    from rlhf_flow.config.overrides import expanded

    if wrong := explain.no_option(arguments):
        return _mistaken(wrong)
    try:
        return command(expanded(arguments))
    except explain.Mistake as error:
        return _mistaken(explain.mistake(error))


def _main_of(module: str) -> Callable[[list[str]], int]:
    """The command that a module's `main` does; the module is imported once it is asked for."""
    return lambda arguments: _refusing(import_module(module).main, arguments)


def _refusing(command: Callable[[list[str]], int], arguments: list[str]) -> int:
    """What a command does, or the paragraph of its ValueError."""
    try:
        return command(arguments)
    except ValueError as error:
        return _mistaken(str(error))


def report(arguments: list[str]) -> int:
    """`rlhf-flow report RUN [RUN ...] [--csv FOLDER]`: write the report of a run, or of several side by side."""
    if not arguments or {"-h", "--help"} & set(arguments):
        print(pages.REPORT)
        return DONE if arguments else MISTAKEN
    from rlhf_flow.cli.report import main as show

    return _refusing(show, arguments)


def sandbox(arguments: list[str]) -> int:
    """`rlhf-flow sandbox`: build the embedded world, once."""
    from rlhf_flow.sandbox.__main__ import main as build

    sys.argv = ["rlhf-flow sandbox", *arguments]
    build()
    return DONE


def serve(arguments: list[str]) -> int:
    """`rlhf-flow serve [overrides]`: compose a scorer with Hydra, and serve it over HTTP until a signal."""
    if {"-h", "--help"} & set(arguments):
        from rlhf_flow.cli import help as manual

        print(manual.serve())
        return DONE
    from rlhf_flow.serve import config as settings

    settings.register()
    return _composed("serve", arguments, _served)


def _served(composed: DictConfig) -> int:
    from rlhf_flow.cli import errors as explain
    from rlhf_flow.cli import serve as command
    from rlhf_flow.serve import config as settings

    try:
        command.serve(settings.build(composed))
    except explain.Mistake as error:
        return _mistaken(explain.mistake(error))
    except Exception as error:
        _show_traceback()
        print(f"rlhf-flow: the server failed: {_cause(error)}", file=sys.stderr)
        return FAILED
    return DONE


def init(arguments: list[str]) -> int:
    """`rlhf-flow init [FILE]`: write a commented file of the keys of a first run."""
    if len(arguments) > 1:
        return _mistaken("init writes one file. Fix: rlhf-flow init mine.yaml.")
    from rlhf_flow.cli.init import write

    path = Path(arguments[0] if arguments else "mine.yaml")
    try:
        write(path)
    except ValueError as error:
        return _mistaken(str(error))
    print(f"{path}: name your model, prompts and judge in it, then rlhf-flow run {path}")
    return DONE


def completion(arguments: list[str]) -> int:
    """`rlhf-flow completion bash`: the script for a shell, which asks `rlhf-flow completion words LINE BREAKS`."""
    if arguments != ["bash"] and not (len(arguments) == 3 and arguments[0] == "words"):
        print(pages.COMPLETION)
        return DONE if {"-h", "--help"} & set(arguments) else MISTAKEN
    from rlhf_flow.cli.completion import BASH, words

    print(BASH.rstrip() if arguments == ["bash"] else "\n".join(words(arguments[1], arguments[2], [*_commands()])))
    return DONE


def label(arguments: list[str]) -> int:
    """`rlhf-flow label RUN`: show people the questions of a run, in the browser, until a signal."""
    if not arguments or {"-h", "--help"} & set(arguments):
        print(pages.LABEL)
        return DONE if arguments else MISTAKEN
    from rlhf_flow.cli.label import main as show

    return _refusing(show, arguments)


def _mistaken(message: str) -> int:
    print(f"rlhf-flow: {redacted(message)}", file=sys.stderr)
    return MISTAKEN


def _show_traceback() -> None:
    print(redacted(traceback.format_exc()), end="", file=sys.stderr)


if __name__ == "__main__":
    sys.exit(main())
