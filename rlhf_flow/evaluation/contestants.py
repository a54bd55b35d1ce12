"""The policies that an evaluation compares: those of runs, and checkpoints."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from rlhf_flow.config.schema import RunConfig
from rlhf_flow.config.stored import stored
from rlhf_flow.runner.prepare import on_disk
from rlhf_flow.specs import Model
from rlhf_flow.storage.run_policies import (
    AVERAGE,
    RunPolicy,
    closed_rounds,
    kept_rounds,
    policy_of,
    split,
    start_folder,
)
from rlhf_flow.system.files import read_json
from rlhf_flow.tokenization.chat_template import dated, today
from rlhf_flow.types import Policy
from rlhf_flow.weights.fingerprint import checkpoint_fingerprint
from rlhf_flow.weights.source import Checkpoint, published
from rlhf_flow.weights.start_checkpoint import faults

ALL = "all"  # RUN@all: every round


@dataclass(frozen=True)
class Recorded:
    """The answers of a round to the held-out prompts, which the run committed."""

    path: Path
    config: RunConfig

    def answers(self, config: RunConfig) -> bool:
        """Whether an evaluation with this configuration asks the same prompts with the same decoding."""
        same = [(each.prompts, each.evaluate.draw, each.seed) for each in (self.config, config)]
        return same[0] == same[1]


@dataclass(frozen=True)
class Contestant:
    """A policy with a name of its own, and the model whose engine generates its answers."""

    name: str
    model: Model
    policy: Policy | None  # None: the run removed its weights
    recorded: Recorded | None = None


def contestants(words: Sequence[str], model: Model) -> list[Contestant]:
    """What each word names: RUN or RUN@WHICH (`storage.run_policies`), RUN@all, a checkpoint's folder, or a hub model.

    `model`: dtype and chat template of those that are not of a run. Raises ValueError if a word names nothing, or if
    two name the same.
    """
    found = [one for word in words for one in _named(word, model)]
    for at, one in enumerate(found):
        if one.name in {other.name for other in found[:at]}:
            raise ValueError(f"{one.name} is named twice. Fix: leave one of them out.")
    return found


def _named(word: str, model: Model) -> Iterator[Contestant]:
    named = split(word)
    if named is None:
        yield _checkpoint(word, model)
        return
    run, which = named
    config = stored(run)
    if config.evaluate.by == "agreement":
        raise ValueError(f"{word}: this run trains a scorer, which has no answers. Fix: rlhf-flow eval --pairs FILE.")
    config = replace(config, model=on_disk(replace(config.model, path=str(start_folder(run)))))
    kept = [0, *kept_rounds(run)]
    known = [round for round in closed_rounds(run) if round in kept or _answers(run, round, config)]
    if which != ALL and not which.isdecimal():
        yield _of_run(policy_of(run, which), config)
        return
    for round in known if which == ALL else [int(which)]:
        if round not in known:
            raise ValueError(
                f"{word}: the run has neither the policy of round {round} nor its held-out answers. Fix: a round of "
                f"{', '.join(map(str, known))}; checkpoint.keep is the number of policies that a run keeps."
            )
        yield _of_run(policy_of(run, str(round)), config) if round in kept else _without_weights(run, round, config)


def _checkpoint(word: str, model: Model) -> Contestant:
    model = dated(on_disk(replace(model, path=word)), today())
    folder = Path(model.path)
    for fault in faults(folder, kind="policy", key="model.path", trust_remote_code=model.trust_remote_code):
        raise ValueError(f"{word}: {fault.says}. Fix: {fault.way_out}.")
    weights = Checkpoint(folder, model.trust_remote_code)
    return Contestant(word.rstrip("/"), model, Policy("policy", 0, checkpoint_fingerprint(folder), weights))


def _of_run(found: RunPolicy, config: RunConfig) -> Contestant:
    path, trusts = Path(config.model.path), config.model.trust_remote_code
    policy = Policy("policy", 0, checkpoint_fingerprint(path), Checkpoint(path, trusts))
    if found.is_average:
        sha256 = str(read_json(found.run / "average.json")["sha256"])
        policy = Policy("average", found.round, sha256, published(found.folder.resolve(), policy))
        return Contestant(f"{_name(found.run)}@{AVERAGE}", config.model, policy)
    if found.round > 0:
        sha256 = str(read_json(found.folder.parent / "record.json")["policy"])
        weights = published(found.folder.resolve(), policy, trust_remote_code=trusts)
        policy = Policy("policy", found.round, sha256, weights)
    return replace(_without_weights(found.run, found.round, config), policy=policy)


def _without_weights(run: Path, round: int, config: RunConfig) -> Contestant:
    answers = _answers(run, round, config)
    recorded = None if answers is None else Recorded(answers, config)
    return Contestant(f"{_name(run)}@{round}", config.model, None, recorded)


def _name(run: Path) -> str:
    return str(run).rstrip("/")


def _answers(run: Path, round: int, config: RunConfig) -> Path | None:
    """The policy's held-out answers, if the run committed them; those of a likelihood are of the data set."""
    path = run / "rounds" / f"{round:05d}" / "evaluation" / "answers.parquet"
    return path if config.evaluate.by == "answers" and path.is_file() else None
