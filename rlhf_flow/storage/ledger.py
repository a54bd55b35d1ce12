"""Stores a run on disk. A stage is committed if and only if its record under `stages/` exists.

A stage writes its files into a staging folder. `commit` flushes and hashes them, moves them into the round's folder and
writes the record with their hashes last, by one rename. If the process is killed before that, no record names the files
and the next attempt overwrites them. Committed files never change; one that does not match its hash stops the run.
"""

from __future__ import annotations

import json
import os
import shutil
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import NamedTuple

import pyarrow.parquet as pq

from rlhf_flow.storage.data_origin import changed
from rlhf_flow.storage.store import FolderStageWriter, StageFacts, StageRecord, StageWriter
from rlhf_flow.storage.tables import FileShard, Table
from rlhf_flow.system.background import Background
from rlhf_flow.system.cancellation import check_cancelled
from rlhf_flow.system.files import check, flush, lock, read_json, seal, write_json, write_text
from rlhf_flow.types import RoundRecord


class Behind(NamedTuple):
    stages: set[tuple[int, str]]  # round and stage
    work: Background


@dataclass
class Ledger:
    """The only writer of a run's folder."""

    root: Path
    records: list[RoundRecord] = field(default_factory=list)
    _lock: int = -1
    _behind: Behind | None = None  # stages that are committed in a thread

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
        """Lock the run's folder and start or resume the run in it.

        `until_verdicts`: whether a key may differ as long as no committed stage holds a verdict of a scorer.
        `renamed`: translates an identity that an earlier version wrote into today's keys.
        `rounds`: how many rounds this start asks for. If the run has more, config and manifest do not change.

        Raises ValueError if another process holds the folder, if identity keys differ (the message names them), or if a
        committed file is missing or does not match its hash.
        """
        root = root.resolve()  # workers on other machines open the files by the same path
        ledger = cls(root=root, _lock=lock(root))
        try:
            starts = ledger._check_identity(json.loads(json.dumps(identity)), manifest, until_verdicts, renamed)
            ledger._verify()
            ledger.records = ledger._read_records()
            if rounds is None or len(ledger.records) - 1 <= rounds:
                start = {**manifest, "round": len(ledger.records)}
                write_text(root / "config.yaml", config)
                write_json(root / "manifest.json", {"starts": [*starts, start]})
                write_json(root / "identity.json", identity)
            ledger._write_metrics()
        except BaseException:
            ledger.close()
            raise
        return ledger

    def _check_identity(
        self,
        identity: Mapping[str, object],
        manifest: StageFacts,
        until_verdicts: Callable[[str], bool],
        renamed: Callable[[Mapping[str, object]], dict[str, object]],
    ) -> list[StageFacts]:
        """The manifests of earlier starts. Raises ValueError if the folder holds another run."""
        path = self.root / "identity.json"
        if not path.exists():
            if any(self.root.glob("rounds/*")):
                raise ValueError(
                    f"run_dir={self.root} has rounds but no identity.json, so it is not a run of this program. "
                    "Fix: choose another run_dir."
                )
            return []
        starts: list[StageFacts] = read_json(self.root / "manifest.json")["starts"]
        old, ignored = renamed(read_json(path)), set[str]()
        if not self._holds_verdicts():
            ignored = {key for key in {*old, *identity} if until_verdicts(key)}
        old, new = ({key: keys[key] for key in keys if key not in ignored} for keys in (old, identity))
        _check_same_run(old, new, self.root, starts[0] if starts else {}, manifest)
        return starts

    def close(self) -> None:
        """End `commit_behind`, and release the lock of the folder."""
        if self._behind is not None:
            self._behind.work.stop()
        if self._lock >= 0:
            os.close(self._lock)
            self._lock = -1

    @property
    def durable(self) -> bool:
        return True

    # -- stages -------------------------------------------------------------------------------------------------------

    def folder(self, round: int) -> Path:
        return self.root / "rounds" / f"{round:05d}"

    def committed(self, round: int, stage: str) -> StageRecord | None:
        """The record of a stage (or chunk); None if it is not committed. Waits if it is being committed in a thread."""
        if self._behind is not None and (round, stage) in self._behind.stages:
            self._settle()
        path = self._record_path(round, stage)
        return StageRecord(**read_json(path)) if path.exists() else None

    def has_stages(self, round: int) -> bool:
        """Whether any stage of the round is committed."""
        return any(self.folder(round).glob("stages/*.json"))

    def commit(
        self, round: int, stage: str, write: Callable[[StageWriter], StageFacts], *, spent: float = 0.0
    ) -> StageRecord:
        """The stage's record: as committed before, or after calling `write(writer)` and committing its output.

        `write` returns the facts of the stage. Paths given to the writer are relative to the round's folder.
        `spent`: seconds that the stage took before this call.
        """
        if record := self.committed(round, stage):
            return record
        check_cancelled()
        staging = self.folder(round) / f".{stage}"
        shutil.rmtree(staging, ignore_errors=True)
        staging.mkdir(parents=True)
        began, writer = time.perf_counter() - spent, FolderStageWriter(staging)
        facts = write(writer)
        seconds = time.perf_counter() - began
        self._settle()
        paths = sorted(str(path.relative_to(staging)) for path in staging.rglob("*") if path.is_file())
        files = {path: writer.hashes.get(path) or seal(staging / path) for path in paths}
        rows = {path: pq.read_metadata(staging / path).num_rows for path in files if path.endswith(".parquet")}
        for relative in files:
            target = self.folder(round) / relative
            target.parent.mkdir(parents=True, exist_ok=True)
            (staging / relative).replace(target)
        for parent in {(self.folder(round) / relative).parent for relative in files}:
            flush(parent)
        shutil.rmtree(staging)
        return self._write_record(round, StageRecord(name=stage, files=files, rows=rows, facts=facts, seconds=seconds))

    def commit_behind(self, round: int, stages: Sequence[str], work: Callable[[], None]) -> None:
        """Let `work` commit these stages in a thread. No other stage and no record is committed before it has ended.

        Its error is raised by the next commit, or when one of its stages is read.
        """
        self._settle()
        self._behind = Behind({(round, stage) for stage in stages}, Background(work, name="commit"))

    def _settle(self) -> None:
        """Wait for the stages that are committed in a thread. Raises its error."""
        behind = self._behind
        if behind is not None and threading.current_thread() is not behind.work.thread:
            behind.work.wait()
            self._behind = None

    def commit_merged(self, round: int, stage: str, chunks: Sequence[StageRecord]) -> StageRecord:
        """The record of a stage whose chunks are committed: all their files, and their facts summed."""
        self._settle()
        return self.committed(round, stage) or self._write_record(round, StageRecord.merged(stage, chunks))

    def table(self, round: int, stage: str, prefix: str = "") -> Table:
        """The parquet files of a committed stage whose paths begin with `prefix`, in the order of their paths."""
        record = self.committed(round, stage)
        assert record is not None, f"round {round} has no stage {stage}"
        return Table(
            tuple(
                FileShard(path=self.folder(round) / path, sha256=record.files[path], rows=rows)
                for path, rows in sorted(record.rows.items())
                if path.startswith(prefix)
            )
        )

    def _record_path(self, round: int, stage: str) -> Path:
        return self.folder(round) / "stages" / f"{stage}.json"

    def _write_record(self, round: int, record: StageRecord) -> StageRecord:
        path = self._record_path(round, record.name)
        path.parent.mkdir(parents=True, exist_ok=True)
        write_json(path, asdict(record))
        return record

    # -- rounds -------------------------------------------------------------------------------------------------------

    def close_round(self, record: RoundRecord) -> None:
        """Write `record.json` and update metrics.jsonl, which has one line per record."""
        self._settle()
        assert record.round == len(self.records), f"round {record.round} closes after {len(self.records)} records"
        self.folder(record.round).mkdir(parents=True, exist_ok=True)  # round 0 without held-out prompts has no stage
        write_json(self.folder(record.round) / "record.json", asdict(record))
        self.records.append(record)
        self._write_metrics()

    def release(self, *, before: int) -> None:
        """Tables of earlier rounds are no longer read. On disk they stay."""

    def point(self, name: str, facts: StageFacts) -> None:
        """Write `final.json` or `best.json`."""
        write_json(self.root / f"{name}.json", facts)

    def prune(self, round: int, folders: Iterable[str]) -> None:
        """Delete folders of a committed round. `pruned.json` lists them first, so that `_verify` accepts the loss."""
        before = self._pruned(round)
        pruned = sorted({*before, *(folder for folder in folders if (self.folder(round) / folder).exists())})
        if pruned != before:
            write_json(self.folder(round) / "pruned.json", pruned)
        for folder in pruned:  # all of them: an earlier attempt may have been killed half-way
            shutil.rmtree(self.folder(round) / folder, ignore_errors=True)

    def has(self, round: int, folder: str) -> bool:
        """Whether a committed folder (policy, learner) still exists."""
        return (self.folder(round) / folder).is_dir() and folder not in self._pruned(round)

    def _pruned(self, round: int) -> list[str]:
        path = self.folder(round) / "pruned.json"
        return list(read_json(path)) if path.exists() else []

    def _write_metrics(self) -> None:
        lines = [json.dumps({"round": record.round, **record.metrics}) + "\n" for record in self.records]
        write_text(self.root / "metrics.jsonl", "".join(lines))

    def _round_folders(self) -> list[Path]:
        return sorted((self.root / "rounds").glob("[0-9]*"))

    def _stage_records(self, folder: Path) -> Iterator[StageRecord]:
        return (StageRecord(**read_json(path)) for path in sorted(folder.glob("stages/*.json")))

    def _holds_verdicts(self) -> bool:
        """Whether a verdict of a scorer is committed. Scores of versions that did not count verdicts hold some."""
        for record in (record for folder in self._round_folders() for record in self._stage_records(folder)):
            counts = [record.facts[key] for key in ("judge/verdicts", "eval/judge/verdicts") if key in record.facts]
            if any(counts) or (not counts and record.name.startswith(("score", "label"))):
                return True
        return False

    def _read_records(self) -> list[RoundRecord]:
        records = []
        for path in (folder / "record.json" for folder in self._round_folders()):
            if not path.exists():
                break
            records.append(RoundRecord(**read_json(path)))
        return records

    def _verify(self) -> None:
        """Raise ValueError if a committed file that is not pruned is missing or changed."""
        for folder in self._round_folders():
            pruned = tuple(f"{name}/" for name in self._pruned(int(folder.name)))
            files: dict[str, str] = {}
            for record in self._stage_records(folder):
                files = {**record.files, **files}
            for relative, expected in files.items():
                if not relative.startswith(pruned):
                    check(folder / relative, expected)


def _check_same_run(
    old: Mapping[str, object], new: Mapping[str, object], root: Path, first: StageFacts, now: StageFacts
) -> None:
    """Raises ValueError if identity keys differ. `first`, `now`: the manifests of the first start and of this one."""

    def value(identity: Mapping[str, object], key: str) -> object:
        return None if identity.get(key) == {} else identity.get(key)  # runs of versions without the key have none

    differing = [key for key in sorted({*old, *new}) if value(old, key) != value(new, key)]
    if differing == ["prompts.sha256"]:  # two hashes tell the user nothing
        raise ValueError(
            f"run_dir={root}: the prompts differ from those that the run began with ({changed(first, now)}). "
            "Fix: restore the old data file to resume the run, or choose another run_dir for a new one."
        )
    if differing:
        values = "; ".join(f"{key} was {old.get(key)!r}, now {new.get(key)!r}" for key in differing)
        raise ValueError(
            f"run_dir={root} holds a run with another configuration: {values}. "
            "Fix: restore the old values to resume it, or choose another run_dir."
        )
