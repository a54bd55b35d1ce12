"""Runs from Python, as the command line runs them: `rlhf_flow.run` and `rlhf_flow.resume` return a `Run`."""

from __future__ import annotations

import weakref
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

from rlhf_flow.config.choices import UNKNOWN, Choices
from rlhf_flow.config.compose import with_choices
from rlhf_flow.config.mistakes import as_value_errors
from rlhf_flow.config.overrides import expanded, from_mapping
from rlhf_flow.config.resumed import resumed
from rlhf_flow.config.schema import RunConfig
from rlhf_flow.metrics.alarms import raise_if_stopped
from rlhf_flow.observe.settings import Observer
from rlhf_flow.observe.user_class import Opener, opener
from rlhf_flow.protocols import Objective
from rlhf_flow.runner import prepare, prompt_rows, results
from rlhf_flow.scorer.functions.defined import Functions, install, named
from rlhf_flow.scorer.functions.loader import is_name
from rlhf_flow.system.errors import brief
from rlhf_flow.types import RoundRecord

if TYPE_CHECKING:
    import pandas as pd

Reward: TypeAlias = Callable[..., Any]  # (prompt, answer, meta) -> float, as of scorer=rule
Keys: TypeAlias = Mapping[str, object] | Sequence[str | Path] | str | Path
Own: TypeAlias = Observer | Opener  # an instance; or a class or function, which a start of the run calls


class Run:
    """A run and its folder. Making one computes nothing: iterating runs the rounds.

        for record in run:
            print(record.round, record.metrics)

    Each iteration runs one round and yields its record once it is committed; round 0 evaluates the start. Rounds that
    have a record are not run again, so a loop that was left goes on where it stopped. Raises ValueError for a mistake
    in keys, model or data, before any worker starts, and AlarmError if an alarm stopped the run.
    """

    def __init__(
        self,
        config: RunConfig,
        functions: Functions | None = None,
        observer: Own | None = None,
        choices: Choices = UNKNOWN,
    ) -> None:
        """`observer`: besides those of `config.observe`. `choices`: the names that `config` was composed from.

        Raises ValueError if the observer is none.
        """
        self.config = config
        self._functions = functions or {}
        self._openers = [] if observer is None else [opener(observer)]
        self._choices = choices
        self.folder = Path(config.run_dir).resolve()
        self._active: Callable[[], Generator[RoundRecord] | None] = lambda: None

    def __iter__(self) -> Iterator[RoundRecord]:
        rounds = self._rounds()
        self._active = weakref.ref(rounds)  # a loop that is left drops the rounds, which ends their workers
        return rounds

    def _rounds(self) -> Generator[RoundRecord]:
        prepared = self.prepare()
        yield from prepared.rounds()
        raise_if_stopped(prepared.ledger.records[-1], self.config.alarms)

    def finish(self) -> Run:
        """Run all rounds that are left, and print what the command line prints. Raises as iterating does."""
        self.prepare().run()
        return self

    def stop(self) -> None:
        """End the loop over this run after the present round: its workers end, and its folder is unlocked."""
        if (rounds := self._active()) is not None:
            rounds.close()

    def prepare(self) -> prepare.Prepared:
        """Check everything, and lock the folder. Raises ValueError for any mistake."""
        install(self._functions)
        prepared = prepare.prepare(self.config, self._choices)
        return replace(prepared, observers=self._openers) if self._openers else prepared

    @property
    def metrics(self) -> pd.DataFrame:
        """The metrics of all finished rounds, one row a round; NaN if a round did not measure one."""
        return results.metrics(self.folder)

    def pairs(self, round: int) -> pd.DataFrame:
        """The pairs that a round trained on: prompt, chosen, rejected, preference, weight, and the ids.

        `chosen` is the side that the scorer prefers, `preference` its probability. `rejected` is None if the round
        trained on single answers. Raises ValueError if the round has no pairs.
        """
        return results.pairs(self.folder, round)

    @property
    def policy(self) -> Path:
        """The folder of the newest policy on disk, a Hugging Face checkpoint; the start before round 1 is finished."""
        return results.policy(self.folder, start=self.config.model.path)

    def __repr__(self) -> str:
        done = max(results.done(self.folder), 0)
        return f"Run({str(self.folder)!r}, {done} of {self.config.rounds} rounds)"


def run(
    algorithm: str | None = None,
    *,
    model: str | Path | None = None,
    prompts: str | Path | Iterable[object] | None = None,
    reward: str | Path | Reward | None = None,
    objective: Objective | None = None,
    observe: Own | None = None,
    rounds: int | None = None,
    run_dir: str | Path | None = None,
    stack: str | None = "local",
    keys: Keys = (),
    config_dir: str | Path | None = None,
) -> Run:
    """A run that is configured and checked, as `rlhf-flow run` configures it; iterate it to run its rounds.

    `algorithm`: a name, as of algorithm=; None: online_dpo, or that of an experiment in `keys`.
    `model`: model.path. `prompts`: a file (prompts.path), or rows: texts, mappings with a column `prompt`, a Dataset of
    Hugging Face or a DataFrame. Rows are written into the run's folder. With fewer than 128 of them, prompts.held_out
    is a quarter of them by default, and prompts.batch the others, at most 64.
    `reward`: a function (prompt, answer, meta) -> float, which may be a lambda, or its name, "module.function"; or the
    path of a reward model.
    `objective`: a loss in place of the algorithm's, an instance of a dataclass that a module or a notebook defines.
    `observe`: receives the progress of this run, from the round on with which it goes on: an instance; or a class,
    which each start of the run opens with its `ObservedRun`.
    `stack`: local, cpu or gpu; None: the parts that `keys` names. `keys`: any other keys of the command line, as a
    mapping, {"answers.n": 4}, or as arguments, ["answers.n=4", "mine.yaml"]; they have precedence. Values of a mapping
    may be functions: {"scorer@evaluate.scorer": "rule", "evaluate.scorer.function": worth}.
    `config_dir`: as --config-dir.

    Raises ValueError for a mistake, with the paragraph of the command line. The same call resumes a run.
    """
    if not isinstance(algorithm, str | None):
        raise ValueError(f"algorithm={brief(algorithm)}: expected a name. Fix: rlhf_flow.run(keys={brief(algorithm)}).")
    for name, path, fix in (
        ("model", model, 'model="my/model", or the folder of its save_pretrained'),
        ("run_dir", run_dir, 'run_dir="runs/first"'),
        ("config_dir", config_dir, 'config_dir="conf"'),
    ):
        if path is not None:
            _check_path(name, path, fix)
    functions: Functions = {}
    own: dict[str, object] = {"stack": stack, "algorithm": algorithm, "model.path": model, "rounds": rounds}
    own |= {"run_dir": run_dir, **_scorer(reward, functions)}
    rows = None if prompts is None or isinstance(prompts, str | Path) else prompt_rows.rows(prompts)
    own |= {"prompts.path": prompts} if rows is None else prompt_rows.keys(rows)
    others = _overrides(keys, functions)
    typed = {override.partition("=")[0] for override in others}
    chosen = {key: value for key, value in own.items() if value is not None and key not in typed}
    install(functions)
    folders = [] if config_dir is None else [str(config_dir)]
    loss = None if "objective" in typed else objective
    with as_value_errors():
        config, choices = with_choices(*from_mapping(chosen), *others, folders=folders, objective=loss)
    return Run(config if rows is None else prompt_rows.written(config, rows), functions, observe, choices)


def resume(
    folder: str | Path,
    *,
    reward: Reward | None = None,
    observe: Own | None = None,
    rounds: int | None = None,
    keys: Keys = (),
) -> Run:
    """The run in a folder, to read its results or, by iterating it, to go on where it stopped.

    `reward`: the function, if it was one of a notebook. `observe`: as of `run`. `rounds`: a larger number than before
    adds rounds. `keys`: as of `run`; keys that determine the result cannot change. Relative paths are those of the
    folder in which the run was started.

    Raises ValueError if the folder holds no run or a key cannot be changed.
    """
    _check_path("folder", folder, 'rlhf_flow.resume("runs/first")')
    functions: Functions = {}
    own = {} if reward is None else {"scorer.function": named(reward, functions)}
    overrides = [*from_mapping(own if rounds is None else own | {"rounds": rounds}), *_overrides(keys, functions)]
    install(functions)
    with as_value_errors():
        return Run(resumed(Path(folder), overrides), functions, observe)


def _scorer(reward: str | Path | Reward | None, functions: Functions) -> dict[str, object]:
    if reward is None:
        return {}
    if isinstance(reward, str) and is_name(reward) and not Path(reward).exists():
        return {"scorer": "rule", "scorer.function": reward}
    if isinstance(reward, str | Path):
        return {"scorer": "reward_model", "scorer.path": reward}
    return {"scorer": "rule", "scorer.function": named(reward, functions)}


def _overrides(keys: Keys, functions: Functions) -> list[str]:
    if isinstance(keys, Mapping):
        if wrong := [key for key in keys if not isinstance(key, str)]:
            raise ValueError(
                f"keys={{{brief(wrong[0])}: ...}}: expected the name of a key. Fix: keys={{'answers.n': 4}}."
            )
        values = {key: named(value, functions, key) if callable(value) else value for key, value in keys.items()}
        return expanded(from_mapping(values))
    given = [keys] if isinstance(keys, str | Path) else keys
    if not isinstance(given, Iterable) or not all(isinstance(one, str | Path) for one in given):
        raise ValueError(f"keys={brief(keys)}: expected keys. Fix: keys={{'answers.n': 4}}, or keys=['answers.n=4'].")
    return expanded([str(one) for one in given])


def _check_path(name: str, path: object, fix: str) -> None:
    if not isinstance(path, str | Path):
        raise ValueError(f"{name}={brief(path)}: expected a path. Fix: {fix}.")
