"""Weights & Biases: one run of theirs per run of ours, every round in it once."""

from __future__ import annotations

import json
import struct
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace

import pytest

from rlhf_flow.observe.settings import ObservedRun, WandbSettings
from rlhf_flow.observe.wandb import Wandb
from rlhf_flow.types import RoundRecord

pytestmark = pytest.mark.slow

MakeRecord = Callable[[int], RoundRecord]


def start(run_dir: Path, committed: int, then: int, *, killed: bool) -> None:
    """A start of the run in a process of its own: `committed` rounds are known, rounds up to `then` follow."""
    program = f"""
import os, signal
from pathlib import Path
from rlhf_flow.observe.settings import ObservedRun, WandbSettings
from rlhf_flow.observe.wandb import Wandb
from rlhf_flow.types import RoundRecord

def record(round):
    return RoundRecord(round, "", {{}}, {{"eval/kl": float(round)}}, {{"learn": 3.0}}, {{}})

records = [record(round) for round in range({committed})]
wandb = Wandb.open(ObservedRun(Path({str(run_dir)!r}), records, {{"seed": 7}}), WandbSettings(mode="offline"))
for round in range({committed}, {then}):
    wandb.round(record(round))
os.kill(os.getpid(), signal.SIGKILL) if {killed} else wandb.close()
"""
    subprocess.run([sys.executable, "-c", program], check=not killed, timeout=120, capture_output=True)


def test_offline_each_round_is_in_the_one_folder_that_is_left(tmp_path: Path) -> None:
    pytest.importorskip("wandb")
    start(tmp_path, 0, 3, killed=True)
    start(tmp_path, 2, 3, killed=False)
    start(tmp_path, 4, 5, killed=False)
    (folder,) = (tmp_path / "wandb").glob("offline-run-*")
    (file,) = folder.glob("*.wandb")
    assert file.stem == f"run-{(tmp_path / 'wandb' / 'id').read_text().strip()}"
    rows = history(file)
    assert [(row["_step"], row["round"], row["eval/kl"]) for row in rows] == [(at, at, at) for at in range(5)]
    assert {row["seconds/learn"] for row in rows} == {3.0}


def history(file: Path) -> list[dict[str, float]]:
    """The rows of history in a file of W&B: records of protobuf in LevelDB's log format, after a header of 7 bytes."""
    from wandb.proto import wandb_internal_pb2

    data, at, rest, rows = file.read_bytes(), 7, b"", []
    while at + 7 <= len(data):
        if 32768 - at % 32768 < 7:  # a block ends in padding where no header fits
            at += 32768 - at % 32768
            continue
        length, kind = struct.unpack("<HB", data[at + 4 : at + 7])  # kind: 1 whole, 2 first, 3 middle, 4 last
        rest += data[at + 7 : at + 7 + length]
        at += 7 + length
        if kind not in (1, 4):
            continue
        entry = wandb_internal_pb2.Record()
        entry.ParseFromString(rest)
        rest = b""
        if entry.WhichOneof("record_type") == "history":
            items = entry.history.item
            row = {item.key or "/".join(item.nested_key): json.loads(item.value_json) for item in items}
            rows.append({"_step": entry.history.step.num} | row)
    return rows


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
