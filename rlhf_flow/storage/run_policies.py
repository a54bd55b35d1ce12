"""The policies of a run on disk, by name: RUN or RUN@best, RUN@3 (0 is the start), RUN@last and RUN@average."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from rlhf_flow.storage.ledger import Ledger
from rlhf_flow.system.files import read_json
from rlhf_flow.system.hub import is_hub_name
from rlhf_flow.system.output import tell

BEST, LAST, AVERAGE = "best", "last", "average"


@dataclass(frozen=True)
class RunPolicy:
    """A policy that a run published, or its start."""

    run: Path
    round: int  # 0: the start
    folder: Path  # a Hugging Face checkpoint or a peft adapter
    is_average: bool = False  # of the policies of the rounds up to this one

    @property
    def name(self) -> str:
        return f"{self.run.resolve().name}@{AVERAGE if self.is_average else self.round}"


def is_run(folder: Path) -> bool:
    return (folder / "config.yaml").is_file() and (folder / "rounds").is_dir()


def check_run(folder: Path) -> Ledger:
    """The files of a run, to be read without its lock. Raises ValueError if the folder holds no run."""
    if not is_run(folder):
        raise ValueError(f"{folder} holds no run: it has no config.yaml and rounds. Fix: {fix_of(folder)}.")
    return Ledger(folder)


def fix_of(folder: Path) -> str:
    """What to name in place of a folder that holds no run."""
    found = split(str(folder))
    return "name the run's folder, its run_dir" if found is None else f"{found[0]}, without @{found[1]}"


def closed_rounds(run: Path) -> list[int]:
    """The rounds that have a record, in order; 0 is the start. Their files do not change any more."""
    return sorted(int(path.parent.name) for path in run.glob("rounds/[0-9]*/record.json"))


def kept_rounds(run: Path) -> list[int]:
    """The closed rounds whose policy is on disk, in order, without the start."""
    ledger = Ledger(run)
    return [round for round in closed_rounds(run) if round and ledger.has(round, "policy")]


def split(name: str) -> tuple[Path, str] | None:
    """The folder of the run that RUN or RUN@WHICH names, and WHICH: by default `best`; None if it names no run.

    A folder of this name comes first.
    """
    if is_run(Path(name)):
        return Path(name), BEST
    run, at, which = name.rpartition("@")
    return (Path(run), which) if at and not Path(name).exists() and is_run(Path(run)) else None


def named_policy(name: str) -> RunPolicy | None:
    """The policy that RUN or RUN@WHICH names; None if `name` names no run. Raises as `policy_of`."""
    found = split(name)
    return None if found is None else policy_of(*found)


def policy_of(run: Path, which: str) -> RunPolicy:
    """`which`: best, last, average or a round.

    The best is that of the evaluated rounds; the last one if the run evaluated none, or none is better than the start:
    a line says so. Raises ValueError if the run has no such policy on disk.
    """
    kept = kept_rounds(run)
    if which == AVERAGE and (run / "average.json").is_file():
        average = read_json(run / "average.json")
        return RunPolicy(run, average["round"], run / average["policy"], is_average=True)
    if which in (BEST, LAST):
        best = _best_round(run, kept) if which == BEST else None
        last = max(kept, default=0)
        if last == 0:
            tell(f"{run}: its start is taken, because no later policy is on disk")
        elif best == 0:
            tell(f"{run}: round {last} is taken, the last one, because no round is better than the start, {run}@0")
        which = str(best or last)
    if which.isdecimal() and int(which) == 0:
        return RunPolicy(run, 0, start_folder(run))
    if which.isdecimal() and int(which) in kept:
        return RunPolicy(run, int(which), Ledger(run).folder(int(which)) / "policy")
    others = ", ".join(f"{run}@{round}" for round in [0, *kept])
    raise ValueError(
        f"{run}@{which}: the run has no such policy on disk; checkpoint.keep is how many stay. Fix: one of {others}."
    )


def start_folder(run: Path) -> Path:
    """The checkpoint that the run starts from: as its last start found it, or as its configuration names it.

    A model of the hub that is not in the cache any more is its name. Raises ValueError if there is no such folder.
    """
    manifest = run / "manifest.json"
    starts: Any = read_json(manifest)["starts"] if manifest.is_file() else []
    recorded = starts[-1].get("model") if starts else None
    if recorded is not None and Path(recorded).is_dir():
        return Path(recorded)
    config: Any = yaml.safe_load((run / "config.yaml").read_text(encoding="utf-8"))
    named = Path(config["model"]["path"])
    if not named.is_dir() and not is_hub_name(str(named)):
        raise ValueError(
            f"{run}@0: the start of the run, {named}, is not there. Fix: restore it, or name another round."
        )
    return named


def _best_round(run: Path, kept: list[int]) -> int | None:
    """The best evaluated round, which may be 0; None if none of the kept rounds was evaluated."""
    records = [read_json(Ledger(run).folder(round) / "record.json") for round in kept]
    if not any(key.startswith("eval/") for record in records for key in record["metrics"]):
        return None
    return int(read_json(run / "best.json")["round"])
