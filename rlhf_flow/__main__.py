"""The command line: `rlhf-flow run` and the other commands; `python -m rlhf_flow` is the same program.

Nothing heavy is imported for help or for a look at the configuration. Exit status: 0 done, 1 a failure of the run,
2 a mistake in what was asked, 130 interrupted.
"""

from __future__ import annotations

import os
import re
import shlex
import sys
import traceback
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, redirect_stdout
from io import StringIO
from pathlib import Path
from typing import TYPE_CHECKING

from rlhf_flow import __version__, manual
from rlhf_flow.redact import check_typed, redacted

if TYPE_CHECKING:
    from omegaconf import DictConfig

DONE, FAILED, MISTAKEN, INTERRUPTED = 0, 1, 2, 130


def main(arguments: Sequence[str] | None = None) -> int:
    """Do what the arguments say; return the exit status."""
    given = list(sys.argv[1:] if arguments is None else arguments)
    commands: dict[str, Callable[[list[str]], int]] = {
        "run": run,
        "convert": convert,
        "doctor": doctor,
        "plan": plan,
        "judgements": judgements,
        "label": label,
        "report": report,
        "sandbox": sandbox,
        "serve": serve,
        "train-reward": train_reward,
        "verify": verify,
    }
    if not given or given[0] in ("-h", "--help", "help"):
        print(manual.program())
        return DONE if given else MISTAKEN
    if given[0] in ("-V", "--version"):
        print(f"rlhf-flow {__version__}")
        return DONE
    if given[0] not in commands:
        return _mistaken(f"there is no command {given[0]!r}. Try {', '.join(commands)}, or --help.")
    return commands[given[0]](given[1:])


def run(arguments: list[str]) -> int:
    """`rlhf-flow run [overrides]`: compose the configuration with Hydra, and run it (all of them under --multirun)."""
    if {"-h", "--help"} & set(arguments):
        print(manual.run(arguments))
        return DONE
    return _run("run", arguments)


def train_reward(arguments: list[str]) -> int:
    """`rlhf-flow train-reward [overrides]`: the same with a learner of rewards, on answers that came with prompts."""
    if {"-h", "--help"} & set(arguments):
        print(manual.train_reward())
        return DONE
    return _run("train-reward", arguments)


def _run(name: str, arguments: list[str]) -> int:
    command = "rlhf-flow" if Path(sys.argv[0]).name == "rlhf-flow" else f"{shlex.quote(sys.executable)} -m rlhf_flow"
    again = f"The same command goes on where it stopped: {command} {name} {redacted(shlex.join(arguments))}"
    return _composed(name, arguments, lambda composed: _job(composed, arguments, again=again))


def _composed(name: str, arguments: list[str], job: Callable[[DictConfig], int]) -> int:
    """Do a job on each configuration `name` that Hydra composes of the arguments; return the highest exit status."""
    if (here := str(Path.cwd())) not in sys.path:
        sys.path.append(here)  # the console script finds modules of one's own where `python -m` does

    import hydra

    from rlhf_flow import config, explain

    statuses = [DONE]  # one more for each job

    def told(composed: DictConfig) -> None:
        statuses.append(job(composed))

    try:
        check_typed(arguments)
        with _as_hydra_expects(name, arguments), _shown_without_secrets(arguments):
            config.register()
            hydra.main(config_path=str(config.CONFIGS.resolve()), config_name=name, version_base="1.3")(told)()
    except explain.Mistake as error:
        return _mistaken(explain.mistake(error))
    except KeyboardInterrupt:
        return INTERRUPTED
    return max(statuses)


def _job(composed: DictConfig, arguments: list[str], *, again: str) -> int:
    """One run, from its composed configuration to its end."""
    from rlhf_flow import build, config, explain
    from rlhf_flow.alarms import AlarmError
    from rlhf_flow.gate import GateError

    try:
        try:
            asked = config.build(config.in_its_own_folder(composed, arguments))
            prepared = build.prepare(asked)
        except explain.Mistake as error:
            return _mistaken(explain.mistake(error))
        prepared.run()
    except KeyboardInterrupt:
        print(f"\nrlhf-flow: stopped. What was committed stays. {again}", file=sys.stderr)
        raise
    except build.RefusedError as refusal:
        return _mistaken(" ".join(str(refusal).split()))
    except (AlarmError, GateError) as alarm:
        print(f"rlhf-flow: {alarm}\n{again}", file=sys.stderr)
        return FAILED
    except Exception as error:  # whatever ends a run, its cause and the way on are told
        _show_traceback()
        print(f"rlhf-flow: the run failed: {redacted(str(error)) or type(error).__name__}\n{again}", file=sys.stderr)
        return FAILED
    return DONE


def doctor(arguments: list[str]) -> int:
    """`rlhf-flow doctor [overrides]`: look for what would stop a run, before it takes a GPU."""
    if {"-h", "--help"} & set(arguments):
        print(manual.DOCTOR)
        return DONE
    from rlhf_flow.doctor.command import main as look

    return _before_a_run(look, arguments)


def plan(arguments: list[str]) -> int:
    """`rlhf-flow plan [overrides]`: tell what a run would take."""
    if {"-h", "--help"} & set(arguments):
        print(manual.PLAN)
        return DONE
    from rlhf_flow.plan.command import main as tell

    return _before_a_run(tell, arguments)


def _before_a_run(command: Callable[[list[str]], int], arguments: list[str]) -> int:
    if (here := str(Path.cwd())) not in sys.path:
        sys.path.append(here)
    from rlhf_flow import explain

    try:
        return command(arguments)
    except explain.Mistake as error:
        return _mistaken(explain.mistake(error))


def convert(arguments: list[str]) -> int:
    """`rlhf-flow convert FROM TO`: write a checkpoint that a run can start from."""
    from rlhf_flow import convert as converting

    if {"-h", "--help"} & set(arguments):
        print(converting.PAGE)
        return DONE
    folders = [argument for argument in arguments if not argument.startswith("--")]
    if len(folders) != 2 or set(arguments) - {*folders, "--trust-remote-code"}:
        return _mistaken("convert takes two folders. Try rlhf-flow convert FROM TO, or --help.")
    try:
        print(converting.convert(*folders, trust_remote_code="--trust-remote-code" in arguments))
    except (ValueError, OSError) as error:
        return _mistaken(" ".join(str(error).split()))
    return DONE


def report(arguments: list[str]) -> int:
    """`rlhf-flow report RUN [RUN ...] [--csv FOLDER]`: write the report of a run, or of several side by side."""
    if not arguments or {"-h", "--help"} & set(arguments):
        print(manual.REPORT)
        return DONE if arguments else MISTAKEN
    from rlhf_flow.report.command import main as show

    try:
        return show(arguments)
    except ValueError as error:
        return _mistaken(str(error))


def sandbox(arguments: list[str]) -> int:
    """`rlhf-flow sandbox`: build the embedded world, once."""
    if {"-h", "--help"} & set(arguments):
        print(manual.SANDBOX)
        return DONE
    from rlhf_flow.sandbox.__main__ import main as build

    sys.argv = ["rlhf-flow sandbox", *arguments]
    build()
    return DONE


def serve(arguments: list[str]) -> int:
    """`rlhf-flow serve [overrides]`: compose a scorer with Hydra, and serve it over HTTP until a signal."""
    if {"-h", "--help"} & set(arguments):
        print(manual.serve())
        return DONE
    from rlhf_flow.serve import settings

    settings.register()
    return _composed("serve", arguments, _served)


def _served(composed: DictConfig) -> int:
    from rlhf_flow import explain
    from rlhf_flow.serve import command, settings

    try:
        command.serve(settings.build(composed))
    except explain.Mistake as error:
        return _mistaken(explain.mistake(error))
    except Exception as error:
        _show_traceback()
        print(f"rlhf-flow: the server failed: {redacted(str(error)) or type(error).__name__}", file=sys.stderr)
        return FAILED
    return DONE


def label(arguments: list[str]) -> int:
    """`rlhf-flow label RUN`: show people the questions of a run, in the browser, until a signal."""
    if not arguments or {"-h", "--help"} & set(arguments):
        print(manual.LABEL)
        return DONE if arguments else MISTAKEN
    from rlhf_flow.label.command import main as show

    return _before_a_run(show, arguments)


def judgements(arguments: list[str]) -> int:
    """`rlhf-flow judgements`: list, prune or export the cache of what judges said."""
    if {"-h", "--help"} & set(arguments):
        print(manual.JUDGEMENTS)
        return DONE
    from rlhf_flow.judgements import main as look

    return _before_a_run(look, arguments)


def verify(arguments: list[str]) -> int:
    """`rlhf-flow verify`: check the claims of the papers on games with exact solutions."""
    if {"-h", "--help"} & set(arguments):
        print(manual.VERIFY)
        return DONE
    from rlhf_flow.verify.command import main as check

    return _before_a_run(check, arguments)


@contextmanager
def _as_hydra_expects(command: str, arguments: list[str]) -> Iterator[None]:
    """Hydra reads sys.argv, options first; HYDRA_FULL_ERROR makes it hand its errors over instead of printing them."""
    argv, full = sys.argv, os.environ.get("HYDRA_FULL_ERROR")
    sys.argv = [f"rlhf-flow {command}", *sorted(arguments, key=_is_override)]
    os.environ["HYDRA_FULL_ERROR"] = "1"
    try:
        yield
    finally:
        sys.argv = argv
        os.environ.pop("HYDRA_FULL_ERROR")
        if full is not None:
            os.environ["HYDRA_FULL_ERROR"] = full


def _is_override(argument: str) -> bool:
    return not argument.startswith("-") and ("=" in argument or argument.startswith("~"))


def _mistaken(message: str) -> int:
    print(f"rlhf-flow: {redacted(message)}", file=sys.stderr)
    return MISTAKEN


def _show_traceback() -> None:
    print(redacted(traceback.format_exc()), end="", file=sys.stderr)


@contextmanager
def _shown_without_secrets(arguments: list[str]) -> Iterator[None]:
    """What Hydra prints of the configuration under --cfg and --info."""
    if not any(re.match(r"--?(cfg|c|info|i)(=|$)", argument) for argument in arguments):
        yield
        return
    with redirect_stdout(StringIO()) as said:
        yield
    print(redacted(said.getvalue()), end="")


if __name__ == "__main__":
    sys.exit(main())
