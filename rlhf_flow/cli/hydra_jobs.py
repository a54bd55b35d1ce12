"""Hydra inside a command: it composes the arguments and calls a job with each configuration."""

from __future__ import annotations

import contextlib
import io
import os
import re
import sys
from collections.abc import Callable, Iterator, Sequence
from enum import Enum
from itertools import pairwise
from pathlib import Path

import hydra
from hydra import initialize_config_dir
from hydra.core.hydra_config import HydraConfig
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf

from rlhf_flow.cli.shown import named
from rlhf_flow.cli.start import DONE, Ended
from rlhf_flow.config import choices as config_choices
from rlhf_flow.config import compose as config
from rlhf_flow.report.sweep import SCORES
from rlhf_flow.system import files
from rlhf_flow.system.redact import redacted


class JobFailedError(RuntimeError):
    """A job that a launcher ran in another process failed."""


def each(name: str, arguments: list[str], job: Callable[[DictConfig], Ended]) -> list[int]:
    """The exit status of the job for each configuration that Hydra composes; empty if Hydra only prints one.

    Raises errors of Hydra and of the job. A launcher may run jobs in other processes; it then lists no status, and
    raises JobFailedError if one fails.
    """
    if all(_is_override(argument) and not re.match(r"[+~]*hydra\b", argument) for argument in arguments):
        return [_once(name, arguments, job).status]
    statuses: list[int] = []
    process = os.getpid()

    def hydra_job(composed: DictConfig) -> float | None:
        if HydraConfig.get().mode == RunMode.MULTIRUN and not statuses:
            check_direction(name, HydraConfig.get().sweeper.get("direction"))
            _without_secrets(Path(HydraConfig.get().sweep.dir) / "multirun.yaml")
        ended = job(composed)
        statuses.append(ended.status)
        if ended.status and os.getpid() != process:
            raise JobFailedError(f"{HydraConfig.get().job.override_dirname}: exit status {ended.status}")
        return ended.score

    with _as_hydra_expects(name, arguments), _shown_without_secrets(arguments):
        config.register()
        try:
            hydra.main(config_path=str(config.CONFIGS.resolve()), config_name=name, version_base="1.3")(hydra_job)()
        except ValueError:  # Optuna's, if no run ended well; each has said why
            if not statuses or DONE in statuses:
                raise
    return statuses


def _once(name: str, arguments: list[str], job: Callable[[DictConfig], Ended]) -> Ended:
    """The job with the configuration of arguments without options of Hydra.

    Hydra's command line gives the same, but composes twice: first to find out whether the run is a sweep.
    """
    config.register()
    before = HydraConfig.instance().cfg
    with initialize_config_dir(str(config.CONFIGS.resolve()), version_base="1.3"):
        composed = hydra.compose(name, overrides=arguments, return_hydra_config=True)
        HydraConfig.instance().set_config(composed)
        try:
            return job(config_choices.without_hydra(composed))
        finally:
            HydraConfig.instance().cfg = before


def overrides() -> list[str]:
    """The overrides of the current job as typed, with `${...}` unresolved."""
    task = OmegaConf.to_container(HydraConfig.get().overrides.task, resolve=False)
    assert isinstance(task, list)
    return [str(override) for override in task]


def choices() -> config_choices.Choices:
    """The names that the configuration of the current job was composed from."""
    return config_choices.choices(HydraConfig.get().runtime.choices)


def in_its_own_folder(composed: DictConfig, typed: Sequence[str]) -> DictConfig:
    """With --multirun, the swept values of the job are added to the run's folder: `runs/sandbox-seed=1`.

    Observers group the runs of the sweep under the name without them.
    """
    job = HydraConfig.get()
    if job.mode != RunMode.MULTIRUN:
        return composed
    swept = [override for override in overrides() if override not in typed]
    name = re.sub(r"[^\w.=,+-]+", "_", ",".join(swept) or f"job={job.job.num}")
    group = composed.observe.group or Path(str(composed.run_dir)).name
    own = OmegaConf.merge(composed, {"run_dir": f"{composed.run_dir}-{name}", "observe": {"group": group}})
    assert isinstance(own, DictConfig)
    return own


def shows(arguments: list[str]) -> bool:
    """Whether the arguments ask to print the whole configuration of the job."""
    values = [value for flag, value in pairwise(arguments) if flag in ("--cfg", "-c")]
    values += [argument.partition("=")[2] for argument in arguments if argument.startswith("--cfg=")]
    return values == ["job"] and not {"--package", "-p"} & set(arguments)


def page(name: str, arguments: list[str]) -> str:
    """The configuration as Hydra prints it, with the name of each part."""
    with_hydra = {"job": "all", "--cfg=job": "--cfg=all"}
    looks = [with_hydra.get(argument, argument) for argument in arguments if argument != "--resolve"]
    chosen = OmegaConf.create(_printed(name, looks))
    return named(_printed(name, arguments), OmegaConf.select(chosen, "hydra.runtime.choices"))


def _printed(name: str, arguments: list[str]) -> str:
    text = io.StringIO()
    with contextlib.redirect_stdout(text):
        each(name, arguments, lambda composed: Ended(0))
    return text.getvalue()


def check_direction(name: str, direction: object) -> None:
    """Raises ValueError if a sweeper would search for the worst run: Optuna minimises unless told.

    `direction`: an enum of Optuna or its name; None for a sweeper that has none.
    """
    given = direction.name if isinstance(direction, Enum) else direction
    score = {"train-reward": "eval/accuracy", "sft": "eval/loss"}.get(name, "eval/win_rate")
    if given not in (None, SCORES[score]):
        raise ValueError(
            f"hydra.sweeper.direction={given}: the sweeper gets the last {score} of a run. "
            f"Fix: hydra.sweeper.direction={SCORES[score]}."
        )


def _without_secrets(written: Path) -> None:
    """Redact the file that Hydra writes for a sweep, before any job checks its configuration for secrets."""
    if written.is_file():  # other sweepers may not write it
        text = written.read_text(encoding="utf-8")
        if redacted(text) != text:
            with contextlib.suppress(FileNotFoundError):  # a run in another process has just done the same
                files.write_text(written, redacted(text))


@contextlib.contextmanager
def _as_hydra_expects(command: str, arguments: list[str]) -> Iterator[None]:
    """Hydra reads sys.argv, options first; HYDRA_FULL_ERROR makes it raise errors instead of printing them."""
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


@contextlib.contextmanager
def _shown_without_secrets(arguments: list[str]) -> Iterator[None]:
    """Redact what Hydra prints with --cfg and --info."""
    if not any(re.match(r"--?(cfg|c|info|i)(=|$)", argument) for argument in arguments):
        yield
        return
    with contextlib.redirect_stdout(io.StringIO()) as printed:
        yield
    print(redacted(printed.getvalue()), end="")
