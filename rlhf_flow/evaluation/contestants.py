"""The policies that an evaluation compares: those of runs, and checkpoints."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from rlhf_flow.config.compose import from_yaml
from rlhf_flow.config.schema import RunConfig
from rlhf_flow.evaluation.settings import is_run
from rlhf_flow.runner.prepare import on_disk
from rlhf_flow.specs import Model
from rlhf_flow.stages.close_round import MERITS
from rlhf_flow.system.files import read_json
from rlhf_flow.tokenization.chat_template import dated, today
from rlhf_flow.types import Policy
from rlhf_flow.weights.fingerprint import checkpoint_fingerprint
from rlhf_flow.weights.source import Checkpoint, published
from rlhf_flow.weights.start_checkpoint import faults

ROUND = re.compile(r"(.+)@(\d+|all)")  # RUN@ROUND


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


def run_of(word: str) -> Path | None:
    """The folder of the run that RUN, RUN@ROUND or RUN@all names; None if it is no run."""
    found = ROUND.fullmatch(word)
    for path in (word, *([found[1]] if found else [])):
        if is_run(Path(path)):
            return Path(path)
    return None


def contestants(words: Sequence[str], model: Model) -> list[Contestant]:
    """What each word names: RUN (its best policy), RUN@ROUND, RUN@all, the folder of a checkpoint, or a hub model.

    `model`: dtype and chat template of those that are not of a run. Raises ValueError if a word names nothing, or if
    two name the same.
    """
    found = [one for word in words for one in _named(word, model)]
    for at, one in enumerate(found):
        if one.name in {other.name for other in found[:at]}:
            raise ValueError(f"{one.name} is named twice. Fix: leave one of them out.")
    return found


def _named(word: str, model: Model) -> Iterator[Contestant]:
    run = run_of(word)
    if run is None:
        yield _checkpoint(word, model)
        return
    config = from_yaml((run / "config.yaml").read_text(encoding="utf-8"))
    if config.evaluate.by == "agreement":
        raise ValueError(f"{word}: this run trains a scorer, which has no answers. Fix: rlhf-flow eval --pairs FILE.")
    config = replace(config, model=on_disk(config.model))
    known = [round for round in closed_rounds(run) if round == 0 or _policy(run, round) or _answers(run, round, config)]
    found = None if is_run(Path(word)) else ROUND.fullmatch(word)
    chosen = [_best(run, known)] if found is None else known if found[2] == "all" else [int(found[2])]
    for round in chosen:
        if round not in known:
            raise ValueError(
                f"{word}: the run has neither the policy of round {round} nor its held-out answers. Fix: a round of "
                f"{', '.join(map(str, known))}; checkpoint.keep is the number of policies that a run keeps."
            )
        yield _of_run(run, round, config)


def _checkpoint(word: str, model: Model) -> Contestant:
    model = dated(on_disk(replace(model, path=word)), today())
    folder = Path(model.path)
    for fault in faults(folder, kind="policy", key="model.path", trust_remote_code=model.trust_remote_code):
        raise ValueError(f"{word}: {fault.says}. Fix: {fault.way_out}.")
    weights = Checkpoint(folder, model.trust_remote_code)
    return Contestant(word.rstrip("/"), model, Policy("policy", 0, checkpoint_fingerprint(folder), weights))


def _of_run(run: Path, round: int, config: RunConfig) -> Contestant:
    path, trusts = Path(config.model.path), config.model.trust_remote_code
    start = Policy("policy", 0, checkpoint_fingerprint(path), Checkpoint(path, trusts))
    policy: Policy | None = start if round == 0 else None
    if round > 0 and (folder := _policy(run, round)) is not None:
        sha256 = str(read_json(folder.parent / "record.json")["policy"])
        policy = Policy("policy", round, sha256, published(folder, start, trust_remote_code=trusts))
    answers = _answers(run, round, config)
    recorded = None if answers is None else Recorded(answers, config)
    return Contestant(f"{str(run).rstrip('/')}@{round}", config.model, policy, recorded)


def closed_rounds(run: Path) -> list[int]:
    """The rounds that have ended, in order: their files do not change any more."""
    return sorted(int(path.parent.name) for path in run.glob("rounds/*/record.json"))


def _policy(run: Path, round: int) -> Path | None:
    folder = run.resolve() / "rounds" / f"{round:05d}" / "policy"
    return folder if folder.is_dir() else None


def _answers(run: Path, round: int, config: RunConfig) -> Path | None:
    """The answers of the policy. A run of `rlhf-flow sft` has answers of the data set there."""
    path = run / "rounds" / f"{round:05d}" / "evaluation" / "answers.parquet"
    return path if config.evaluate.by == "answers" and path.is_file() else None


def _best(run: Path, known: Sequence[int]) -> int:
    """The round of the best policy, as the run measured it; the last one if it measured none better than the start."""
    if (run / "best.json").is_file():
        best = read_json(run / "best.json")
        if best["policy"] and MERITS.keys() & best["metrics"].keys() and best["round"] in known:
            return int(best["round"])
    return known[-1]
