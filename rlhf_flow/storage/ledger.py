"""What a run leaves on disk: the ledger. A stage exists if and only if its entry under `stages/` does.

A stage writes its files into a folder aside; they are flushed, hashed and moved into the round's folder, and last the
entry with their hashes appears, by one rename. Whatever is killed on the way leaves files that no entry names: they are
overwritten by the next attempt. Committed files never change; a file that does not match its hash stops the run.
"""

from __future__ import annotations

import json
import os
import shutil
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path

import pyarrow.parquet as pq

from rlhf_flow.storage.data_origin import changed
from rlhf_flow.storage.store import FolderStageWriter, StageFacts, StageRecord, StageWriter, summed
from rlhf_flow.storage.tables import FileShard, Table
from rlhf_flow.system.cancellation import heed
from rlhf_flow.system.files import check, flush, lock, read_json, seal, write_json, write_text
from rlhf_flow.types import RoundRecord


@dataclass
class Ledger:
    """The one writer of a run's folder."""

    root: Path
    records: list[RoundRecord] = field(default_factory=list)
    _lock: int = -1

    # -- opening ------------------------------------------------------------------------------------------------------

    @classmethod
    def open(
        cls,
        root: Path,
        *,
        config: str,
        identity: Mapping[str, object],
        manifest: StageFacts,
        until_verdicts: Callable[[str], bool] = lambda key: False,
        renamed: Callable[[Mapping[str, object]], dict[str, object]] = dict,
        rounds: int | None = None,
    ) -> Ledger:
        """Take the run's folder for this process: a new run, or one that goes on.

        `until_verdicts`: keys that may differ as long as no committed stage holds a verdict of a judge.
        `renamed`: gives the identity that an earlier version wrote in today's names.
        `rounds`: how many this start asks for. A run that has more already keeps what it says of itself.

        Raises ValueError when another process holds it, when it belongs to a run whose identity keys differ (and says
        which), or when a committed file is missing or does not match its hash.
        """
        root = root.resolve()  # workers elsewhere open the files by the same name
        ledger = cls(root=root, _lock=lock(root))
        try:
            ledger._take(config, json.loads(json.dumps(identity)), manifest, until_verdicts, renamed, rounds)
        except BaseException:
            ledger.close()
            raise
        return ledger

    def _take(
        self,
        config: str,
        identity: dict[str, object],
        manifest: StageFacts,
        until_verdicts: Callable[[str], bool],
        renamed: Callable[[Mapping[str, object]], dict[str, object]],
        rounds: int | None,
    ) -> None:
        known = self.root / "identity.json"
        starts: list[StageFacts] = []
        if known.exists():
            old, free = renamed(read_json(known)), set[str]()
            if not self._holds_verdicts():
                free = {key for key in {*old, *identity} if until_verdicts(key)}
            old, new = ({key: held[key] for key in held if key not in free} for held in (old, identity))
            starts = read_json(self.root / "manifest.json")["starts"]
            _same_run(old, new, self.root, starts[0] if starts else {}, manifest)
        elif any(self.root.glob("rounds/*")):
            raise ValueError(f"run_dir={self.root} holds rounds but no identity.json: it is not a run of this program.")
        self._verify()
        self.records = self._read_records()
        if rounds is None or len(self.records) - 1 <= rounds:
            write_text(self.root / "config.yaml", config)
            write_json(self.root / "manifest.json", {"starts": [*starts, {**manifest, "round": len(self.records)}]})
            write_json(known, identity)
        self._write_metrics()

    def close(self) -> None:
        """Let another process have the folder."""
        if self._lock >= 0:
            os.close(self._lock)
            self._lock = -1

    @property
    def durable(self) -> bool:
        return True

    # -- stages -------------------------------------------------------------------------------------------------------

    def folder(self, round: int) -> Path:
        return self.root / "rounds" / f"{round:05d}"

    def entry(self, round: int, name: str) -> StageRecord | None:
        """The committed stage (or piece) of this name, None where it was not committed."""
        path = self._entry_path(round, name)
        return StageRecord(**read_json(path)) if path.exists() else None

    def untouched(self, round: int) -> bool:
        """Whether no stage of the round was ever committed."""
        return not any(self.folder(round).glob("stages/*.json"))

    def commit(self, round: int, name: str, write: Callable[[StageWriter], StageFacts]) -> StageRecord:
        """The stage's entry: as it was committed, or made now by `write(shelf)` and committed atomically.

        `write` puts what the stage makes on the shelf it is given, laid out as under the round's folder.
        """
        committed = self.entry(round, name)
        if committed is not None:
            return committed
        heed()
        aside = self.folder(round) / f".{name}"
        shutil.rmtree(aside, ignore_errors=True)
        aside.mkdir(parents=True)
        began = time.perf_counter()
        facts = write(FolderStageWriter(aside))
        seconds = time.perf_counter() - began
        paths = sorted(path for path in aside.rglob("*") if path.is_file())
        files = {str(path.relative_to(aside)): seal(path) for path in paths}
        rows = {path: pq.read_metadata(aside / path).num_rows for path in files if path.endswith(".parquet")}
        for relative in files:
            target = self.folder(round) / relative
            target.parent.mkdir(parents=True, exist_ok=True)
            (aside / relative).replace(target)
        for parent in {(self.folder(round) / relative).parent for relative in files}:
            flush(parent)
        shutil.rmtree(aside)
        entry = StageRecord(name=name, files=files, rows=rows, facts=facts, seconds=seconds)
        self._entry_path(round, name).parent.mkdir(parents=True, exist_ok=True)
        write_json(self._entry_path(round, name), asdict(entry))
        return entry

    def commit_merged(self, round: int, name: str, pieces: Callable[[], Sequence[StageRecord]]) -> StageRecord:
        """The stage that is committed in pieces: one entry with the files of all; their facts are summed."""
        committed = self.entry(round, name)
        if committed is not None:
            return committed
        parts = pieces()
        entry = StageRecord(
            name=name,
            files={path: sha for part in parts for path, sha in part.files.items()},
            rows={path: rows for part in parts for path, rows in part.rows.items()},
            facts=summed(parts),
            seconds=sum(part.seconds for part in parts),
        )
        write_json(self._entry_path(round, name), asdict(entry))
        return entry

    def table(self, round: int, entry: StageRecord) -> Table:
        """The parquet files of a committed stage."""
        return Table(
            tuple(
                FileShard(path=self.folder(round) / path, sha256=entry.files[path], rows=rows)
                for path, rows in sorted(entry.rows.items())
            )
        )

    def _entry_path(self, round: int, name: str) -> Path:
        return self.folder(round) / "stages" / f"{name}.json"

    # -- rounds -------------------------------------------------------------------------------------------------------

    def close_round(self, record: RoundRecord) -> None:
        """Commit `record.json`; bring metrics.jsonl up to date (it is derived: one line per record)."""
        assert record.round == len(self.records), f"round {record.round} closes after {len(self.records)} records"
        self.folder(record.round).mkdir(parents=True, exist_ok=True)  # a round 0 without held-out prompts has no stage
        write_json(self.folder(record.round) / "record.json", asdict(record))
        self.records.append(record)
        self._write_metrics()

    def release(self, *, before: int) -> None:
        """No later lesson reads the tables of rounds before this one. On disk they stay: they are the record."""

    def point(self, name: str, facts: StageFacts) -> None:
        """Write `final.json` or `best.json`."""
        write_json(self.root / f"{name}.json", facts)

    def prune(self, round: int, folders: Iterable[str]) -> None:
        """Delete folders of a committed round that no later round needs; the ledger says so first."""
        before = self._pruned(round)
        pruned = sorted({*before, *(folder for folder in folders if (self.folder(round) / folder).exists())})
        if pruned != before:
            write_json(self.folder(round) / "pruned.json", pruned)
        for folder in pruned:  # what an earlier, killed attempt left as well
            shutil.rmtree(self.folder(round) / folder, ignore_errors=True)

    def has(self, round: int, folder: str) -> bool:
        """Whether a committed folder (policy, learner) is still there."""
        return (self.folder(round) / folder).is_dir() and folder not in self._pruned(round)

    def _pruned(self, round: int) -> list[str]:
        path = self.folder(round) / "pruned.json"
        return list(read_json(path)) if path.exists() else []

    def _write_metrics(self) -> None:
        lines = [json.dumps({"round": record.round, **record.metrics}) + "\n" for record in self.records]
        write_text(self.root / "metrics.jsonl", "".join(lines))

    def _holds_verdicts(self) -> bool:
        """Whether a judge's verdict is committed. Scores of an earlier version, which did not count them, hold some."""
        for path in self.root.glob("rounds/*/stages/*.json"):
            entry = StageRecord(**read_json(path))
            counts = [entry.facts[key] for key in ("judge/verdicts", "eval/judge/verdicts") if key in entry.facts]
            if any(counts) or (not counts and entry.name.startswith(("score", "label"))):
                return True
        return False

    def _read_records(self) -> list[RoundRecord]:
        records = []
        for folder in sorted((self.root / "rounds").glob("[0-9]*")):
            path = folder / "record.json"
            if not path.exists():
                break
            records.append(RoundRecord(**read_json(path)))
        return records

    def _verify(self) -> None:
        for folder in sorted((self.root / "rounds").glob("[0-9]*")):
            pruned = tuple(f"{name}/" for name in self._pruned(int(folder.name)))
            seen: set[str] = set()
            for path in sorted(folder.glob("stages/*.json")):
                for relative, expected in StageRecord(**read_json(path)).files.items():
                    if relative not in seen and not relative.startswith(pruned):
                        check(folder / relative, expected)
                    seen.add(relative)


def _told(identity: Mapping[str, object], key: str) -> object:
    """The value; None also for an empty mapping, so that runs from before there was such a key can go on."""
    value = identity.get(key)
    return None if value == {} else value


def _same_run(
    old: Mapping[str, object], new: Mapping[str, object], root: Path, first: StageFacts, now: StageFacts
) -> None:
    """Raises ValueError if identity keys differ. `first`, `now`: the manifests of the first start and of this one."""
    differing = [key for key in sorted({*old, *new}) if _told(old, key) != _told(new, key)]
    if differing == ["prompts.sha256"]:  # two hashes say nothing to a reader
        raise ValueError(
            f"run_dir={root}: the prompts are not those that the run began with ({changed(first, now)}). "
            "Fix: put the old data file back to go on with the run, or choose another run_dir for a new one."
        )
    if differing:
        values = "; ".join(f"{key} was {old.get(key)!r}, now {new.get(key)!r}" for key in differing)
        raise ValueError(
            f"run_dir={root} belongs to a run with another configuration: {values}. "
            "Put the old values back to go on with it, or choose another run_dir."
        )
