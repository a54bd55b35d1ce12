"""The policies of a run on disk, by name: RUN (the best one), RUN@3, RUN@last and RUN@average."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from rlhf_flow.storage.ledger import Ledger
from rlhf_flow.system.files import read_json

BEST, LAST, AVERAGE = "best", "last", "average"


@dataclass(frozen=True)
class RunPolicy:
    """A policy that a run published."""

    run: Path
    round: int  # 0: the start
    folder: Path  # a Hugging Face checkpoint or a peft adapter

    @property
    def name(self) -> str:
        return f"{self.run.resolve().name}@{self.round}"


def is_run(folder: Path) -> bool:
    return (folder / "config.yaml").is_file() and (folder / "rounds").is_dir()


def check_run(folder: Path) -> Ledger:
    """The files of a run, to be read without its lock. Raises ValueError if the folder holds no run."""
    if not is_run(folder):
        raise ValueError(f"{folder} holds no run: it has no config.yaml and rounds. Fix: name the run's folder.")
    return Ledger(folder)


def closed_rounds(run: Path) -> list[int]:
    """The rounds that have a record, in order; 0 is the start."""
    return sorted(int(path.parent.name) for path in run.glob("rounds/[0-9]*/record.json"))


def named_policy(name: str) -> RunPolicy | None:
    """The policy that RUN or RUN@ROUND names; None if `name` names no run. A folder of this name comes first.

    RUN is the policy of the best evaluated round; the last one on disk if none is better than the start. Raises
    ValueError if the run has no such policy on disk.
    """
    if is_run(Path(name)):
        return _policy(Path(name), BEST)
    run, at, which = name.rpartition("@")
    if at and not Path(name).exists() and is_run(Path(run)):
        return _policy(Path(run), which)
    return None


def _policy(run: Path, which: str) -> RunPolicy:
    ledger = check_run(run)
    kept = [round for round in closed_rounds(run) if round and ledger.has(round, "policy")]
    if which == BEST and (run / "best.json").is_file():
        best = read_json(run / "best.json")
        if best["policy"] and any(key.startswith("eval/") for key in best["metrics"]):
            return RunPolicy(run, best["round"], run / best["policy"])
    if which == AVERAGE and (run / "average.json").is_file():
        average = read_json(run / "average.json")
        return RunPolicy(run, average["round"], run / average["policy"])
    if which in (BEST, LAST) and kept:
        return RunPolicy(run, kept[-1], ledger.folder(kept[-1]) / "policy")
    if which == "0":
        return RunPolicy(run, 0, Path(read_json(run / "manifest.json")["starts"][-1]["model"]))
    if which.isdecimal() and int(which) in kept:
        return RunPolicy(run, int(which), ledger.folder(int(which)) / "policy")
    others = ", ".join(f"{run}@{round}" for round in [0, *kept])
    raise ValueError(
        f"{run}@{which}: the run has no such policy on disk; checkpoint.keep is how many stay. Fix: one of {others}."
    )
