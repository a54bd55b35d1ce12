"""Weights & Biases: one run of theirs per run of ours, every round in it once."""

from __future__ import annotations

import json
import struct
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from rlhf_flow.observe.settings import ObservedRun, WandbSettings
from rlhf_flow.observe.wandb import Wandb
from rlhf_flow.types import RoundRecord
from tests.observe.test_samples import evaluated

pytestmark = pytest.mark.slow

MakeRecord = Callable[[int], RoundRecord]


def start(run_dir: Path, committed: int, then: int, *, killed: bool) -> None:
    """A start of the run in a process of its own: `committed` rounds are known, rounds up to `then` follow."""
    program = f"""
import os, signal
from pathlib import Path
from rlhf_flow.observe.samples import Samples
from rlhf_flow.observe.settings import ObservedRun, WandbSettings
from rlhf_flow.observe.wandb import Wandb
from rlhf_flow.types import RoundRecord

def record(round):
    return RoundRecord(round, "", {{}}, {{"eval/kl": float(round)}}, {{"learn": 3.0}}, {{}})

folder = Path({str(run_dir)!r})
records = [record(round) for round in range({committed})]
run = ObservedRun(folder, records, {{"seed": 7}}, group="sweep", samples=Samples(folder))
wandb = Wandb.open(run, WandbSettings(mode="offline", project="mine", artifacts=["pairs", "policy"]))
for round in range({committed}, {then}):
    wandb.round(record(round))
os.kill(os.getpid(), signal.SIGKILL) if {killed} else wandb.close()
"""
    subprocess.run([sys.executable, "-c", program], check=not killed, timeout=120, capture_output=True)


@dataclass
class Uploaded:
    """What `wandb sync` would upload of a run."""

    id: str  # in the run's folder
    folder: Path
    records: list[Any]  # of W&B's protobuf

    def of(self, kind: str) -> list[Any]:
        return [getattr(record, kind) for record in self.records if record.WhichOneof("record_type") == kind]

    def history(self) -> list[dict[str, Any]]:
        return [
            {"_step": row.step.num}
            | {item.key or "/".join(item.nested_key): json.loads(item.value_json) for item in row.item}
            for row in self.of("history")
        ]


@pytest.fixture(scope="module")
def uploaded(tmp_path_factory: pytest.TempPathFactory) -> Uploaded:
    """Three starts of one run: one is killed, one goes on, and one ends before its first round.

    The run has answers of round 1, and pairs of the last round; its policies were removed.
    """
    pytest.importorskip("wandb")
    run_dir = tmp_path_factory.mktemp("run")
    evaluated(run_dir, 1, {"a": 9.0, "b": 5.0})
    pairs = run_dir / "rounds" / "00004" / "pairs" / "pairs.parquet"
    pairs.parent.mkdir(parents=True)
    pairs.write_text("pairs of round 4")
    start(run_dir, 0, 3, killed=True)
    start(run_dir, 2, 5, killed=False)
    start(run_dir, 5, 5, killed=False)
    (folder,) = (run_dir / "wandb").glob("offline-run-*")
    (file,) = folder.glob("*.wandb")
    assert (run_dir / "wandb" / "id").read_text().strip() == file.stem.removeprefix("run-")
    return Uploaded(file.stem.removeprefix("run-"), folder, list(read(file)))


def test_offline_each_round_is_in_the_one_folder_that_is_left(uploaded: Uploaded) -> None:
    rows = uploaded.history()
    assert [(row["_step"], row["round"], row["eval/kl"]) for row in rows] == [(at, at, at) for at in range(5)]
    assert {row["seconds/learn"] for row in rows} == {3.0}


def test_all_starts_are_one_run_in_the_group_of_the_sweep(uploaded: Uploaded) -> None:
    (run,) = uploaded.of("run")
    assert (run.run_id, run.run_group, run.project) == (uploaded.id, "sweep", "mine")
    assert {item.key: item.value_json for item in run.config.update}["seed"] == "7"


def test_the_answers_of_a_round_are_a_table(uploaded: Uploaded) -> None:
    (row,) = (row for row in uploaded.history() if "samples/_type" in row)
    assert [row[key] for key in ("_step", "samples/_type", "samples/nrows")] == [1, "table-file", 2]
    table = json.loads((uploaded.folder / "files" / row["samples/path"]).read_text())
    assert table["columns"] == ["prompt", "before", "after", "utility before", "utility after"]
    assert table["data"] == [["a", "s", "a9.0", 0.0, 9.0], ["b", "s", "b5.0", 0.0, 5.0]]


def test_of_the_artifacts_those_that_were_chosen_and_exist_are_uploaded(uploaded: Uploaded) -> None:
    chosen = [one for one in uploaded.of("artifact") if one.type != "run_table"]
    assert [(one.name, one.type, json.loads(one.metadata)) for one in chosen] == [
        (f"{uploaded.id}-pairs", "pairs", {"round": 4})
    ]
    assert [entry.path for entry in chosen[0].manifest.contents] == ["pairs.parquet"]


def read(file: Path) -> Iterator[Any]:
    """The records in a file of W&B: protobuf in LevelDB's log format, after a header of 7 bytes."""
    from wandb.proto import wandb_internal_pb2

    data, at, rest = file.read_bytes(), 7, b""
    while at + 7 <= len(data):
        if 32768 - at % 32768 < 7:  # a block ends in padding where no header fits
            at += 32768 - at % 32768
            continue
        length, kind = struct.unpack("<HB", data[at + 4 : at + 7])  # kind: 1 whole, 2 first, 3 middle, 4 last
        rest += data[at + 7 : at + 7 + length]
        at += 7 + length
        if kind in (1, 4):
            record = wandb_internal_pb2.Record()
            record.ParseFromString(rest)
            rest = b""
            yield record


@dataclass
class Server:
    """What the online service would do: it knows the run's last step. Stands in for the package."""

    starting_step: int = 0
    refuses: bool = False
    asked: dict[str, object] = field(default_factory=dict)
    logged: list[int | None] = field(default_factory=list)

    class UsageError(Exception):
        pass

    def init(self, **asked: object) -> Server:
        if self.refuses:
            raise self.UsageError("no API key configured")
        self.asked = asked
        return self

    def log(self, data: dict[str, float], step: int, commit: bool) -> None:
        assert commit
        assert data["round"] == step
        self.logged.append(step)

    def finish(self) -> None:
        self.logged.append(None)

    def install(self, monkeypatch: pytest.MonkeyPatch) -> None:
        errors = SimpleNamespace(UsageError=self.UsageError)
        fake = SimpleNamespace(init=self.init, errors=errors, Settings=lambda **settings: settings)
        monkeypatch.setitem(sys.modules, "wandb", fake)


def test_online_the_run_goes_on_at_the_step_the_server_says(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, record: MakeRecord
) -> None:
    server = Server(starting_step=2)
    server.install(monkeypatch)
    observer = Wandb.open(
        ObservedRun(tmp_path, [record(at) for at in range(4)], {"seed": 7}, group="sweep"), WandbSettings(mode="online")
    )
    observer.stage(4, "sample", 1, 10, "tokens")
    observer.round(record(4))
    observer.close()
    assert server.logged == [2, 3, 4, None]
    assert server.asked["mode"] == "online"
    assert server.asked["resume"] == "allow"
    assert server.asked["group"] == "sweep"
    assert server.asked["config"] == {"seed": 7}
    assert server.asked["name"] == tmp_path.name


def test_a_run_keeps_its_id_and_a_new_one_in_the_same_place_gets_another(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    server = Server()
    server.install(monkeypatch)

    def id_of(folder: Path) -> object:
        Wandb.open(ObservedRun(folder, [], {}), WandbSettings(mode="online"))
        return server.asked["id"]

    first = id_of(tmp_path / "a run, first")
    (tmp_path / "a run, first").rename(tmp_path / "moved")
    assert id_of(tmp_path / "moved") == first
    assert id_of(tmp_path / "a run, first") != first
    assert set(str(first)) <= set("abcdefghijklmnopqrstuvwxyz0123456789-")


def test_no_account_is_said_with_the_way_out(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    Server(refuses=True).install(monkeypatch)
    with pytest.raises(ValueError, match=r"no API key configured.*wandb login.*observe\.wandb\.mode=offline"):
        Wandb.open(ObservedRun(tmp_path, [], {}), WandbSettings(mode="online"))
