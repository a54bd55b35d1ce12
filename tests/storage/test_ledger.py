"""The ledger: one writer, one configuration, nothing half-written, nothing changed behind its back."""

from __future__ import annotations

import json
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from rlhf_flow.storage.ledger import Ledger
from rlhf_flow.storage.store import StageWriter
from tests.support import toy


def opened(root: Path, **identity: object) -> Ledger:
    return Ledger.open(root, config="a: 1\n", identity=identity, manifest={})


def test_the_manifest_says_with_which_round_each_start_goes_on(tmp_path: Path) -> None:
    toy.run(tmp_path, rounds=1)
    toy.run(tmp_path, rounds=2)
    starts = json.loads((tmp_path / "manifest.json").read_text())["starts"]
    assert starts == [{"toy": True, "round": 0}, {"toy": True, "round": 2}]


def test_a_second_start_beside_a_live_run_is_refused_and_names_the_holder(tmp_path: Path) -> None:
    script = (
        "import sys; from pathlib import Path; from rlhf_flow.storage.ledger import Ledger\n"
        "Ledger.open(Path(sys.argv[1]), config='', identity={}, manifest={})\n"
        "print('held', flush=True); sys.stdin.read()"
    )
    holder = subprocess.Popen(
        [sys.executable, "-c", script, str(tmp_path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    try:
        assert holder.stdout is not None
        assert holder.stdout.readline() == "held\n"
        with pytest.raises(ValueError, match=f"in use by process {holder.pid} on .*choose another run_dir"):
            opened(tmp_path)
    finally:
        holder.kill()
        holder.wait()
    opened(tmp_path).close()  # the lock died with its holder


def test_a_folder_of_another_configuration_is_refused_with_the_keys_that_differ(tmp_path: Path) -> None:
    opened(tmp_path, beta=0.1, seed=1).close()
    with pytest.raises(ValueError, match=r"batch was None, now 4; beta was 0\.1, now 0\.2\. "):
        opened(tmp_path, beta=0.2, seed=1, batch=4)


def test_a_refused_start_lets_go_of_the_folder(tmp_path: Path) -> None:
    opened(tmp_path, seed=1).close()
    with pytest.raises(ValueError, match="seed was 1, now 2"):
        opened(tmp_path, seed=2)
    opened(tmp_path, seed=1).close()


@pytest.mark.parametrize("damage", ["a flipped byte", "a cut file", "a deleted file"])
@pytest.mark.parametrize("victim", ["rounds/00001/responses/00000.parquet", "rounds/00002/policy/logits.json"])
def test_a_damaged_file_of_an_earlier_round_stops_the_run_with_its_name(
    tmp_path: Path, victim: str, damage: str
) -> None:
    toy.run(tmp_path, rounds=2)
    path = tmp_path / victim
    if damage == "a deleted file":
        path.unlink()
    else:
        data = bytearray(path.read_bytes())
        data[len(data) // 2] ^= 1
        path.write_bytes(data[:-1] if damage == "a cut file" else data)
    with pytest.raises(ValueError, match=Path(victim).name):
        toy.run(tmp_path, rounds=4)


def test_a_committed_stage_is_not_done_again(tmp_path: Path) -> None:
    ledger = opened(tmp_path)

    def write(shelf: StageWriter) -> dict:
        shelf.text("answer.json", "42")
        return {"answers": 1}

    first = ledger.commit(1, "sample", write)
    again = ledger.commit(1, "sample", lambda shelf: pytest.fail("a committed stage was done again"))
    assert again == first
    assert (tmp_path / "rounds/00001/answer.json").read_text() == "42"
    ledger.close()


def test_a_stage_that_fails_leaves_no_entry_and_no_file(tmp_path: Path) -> None:
    ledger = opened(tmp_path)

    def write(shelf: StageWriter) -> dict:
        shelf.text("half.json", "4")
        raise RuntimeError("the judge went away")

    with pytest.raises(RuntimeError, match="judge"):
        ledger.commit(1, "score", write)
    assert ledger.committed(1, "score") is None
    assert not (tmp_path / "rounds/00001/half.json").exists()
    ledger.close()


def test_a_damaged_record_stops_the_run_with_its_name(tmp_path: Path) -> None:
    toy.run(tmp_path, rounds=1)
    (tmp_path / "rounds/00001/record.json").write_text('{"round": ')
    with pytest.raises(ValueError, match=r"rounds/00001/record\.json is damaged"):
        toy.run(tmp_path, rounds=2)


def test_a_folder_that_cannot_be_written_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(ValueError, match=r"cannot be written.*choose another run_dir"):
        opened(tmp_path / "file")


def test_the_lock_is_not_inherited_by_workers(tmp_path: Path) -> None:
    ledger = opened(tmp_path)
    worker = subprocess.Popen([sys.executable, "-c", "import sys; sys.stdin.read()"], stdin=subprocess.PIPE)
    try:
        ledger.close()
        opened(tmp_path).close()
    finally:
        worker.kill()
        worker.wait()


def test_the_entry_of_a_stage_names_every_file_with_its_hash(tmp_path: Path) -> None:
    toy.run(tmp_path, rounds=1)
    folder = tmp_path / "rounds/00001"
    named: set[str] = set()
    for entry in folder.glob("stages/*.json"):
        named |= set(json.loads(entry.read_text())["files"])
    present = {str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()}
    assert {path for path in present if not path.startswith("stages/")} == named | {"record.json"}
    assert not [path for path in folder.iterdir() if path.name.startswith(".")]


def test_a_start_that_asks_for_fewer_rounds_leaves_what_a_run_says_of_itself(tmp_path: Path) -> None:
    toy.run(tmp_path, rounds=3)
    said = {name: (tmp_path / name).read_bytes() for name in ("config.yaml", "manifest.json")}
    for rounds, changes in ((2, False), (3, True)):
        Ledger.open(
            tmp_path, config=f"rounds: {rounds}", identity={"toy": True, "k": 0}, manifest={}, rounds=rounds
        ).close()
        assert ({name: (tmp_path / name).read_bytes() for name in said} != said) == changes


def test_files_that_their_writer_hashed_are_not_read_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from rlhf_flow.storage import ledger as module

    read: list[str] = []
    monkeypatch.setattr(module, "seal", lambda path: read.append(path.name) or "hashed here")
    ledger = opened(tmp_path)

    def checkpoint(folder: Path) -> dict[str, str]:
        folder.mkdir()
        (folder / "weights").write_text("many bytes")
        (folder / "index").write_text("few bytes")
        return {"weights": "hashed by its writer"}

    def write(writer: StageWriter) -> dict:
        writer.save("learner", checkpoint)
        return {}

    record = ledger.commit(1, "learn", write)
    assert read == ["index"]
    assert record.files == {"learner/index": "hashed here", "learner/weights": "hashed by its writer"}
    ledger.close()


def test_stages_that_are_committed_in_a_thread_are_committed_before_any_later_one(tmp_path: Path) -> None:
    ledger, go_on = opened(tmp_path), threading.Event()
    order = []

    def slow(stage: str) -> None:
        assert go_on.wait(10)
        ledger.commit(1, stage, lambda writer: order.append(stage) or {"stage": stage})

    def evaluate(writer: StageWriter) -> dict:
        assert ledger.committed(1, "sample") is None, "only the stages of the thread wait for it"
        order.append("evaluate begins")
        go_on.set()
        return {}

    ledger.commit_behind(1, ("learn", "publish"), lambda: [slow("learn"), slow("publish")])
    ledger.commit(1, "evaluate", evaluate)
    assert order == ["evaluate begins", "learn", "publish"]
    written = [
        (tmp_path / f"rounds/00001/stages/{stage}.json").stat().st_mtime_ns for stage in (*order[1:], "evaluate")
    ]
    assert written == sorted(written)
    ledger.commit_behind(2, ("publish",), lambda: ledger.commit(2, "publish", lambda writer: {"sha256": "a"}))
    assert ledger.committed(2, "publish").facts == {"sha256": "a"}
    ledger.close()


def test_an_error_of_a_stage_in_a_thread_stops_the_next_commit(tmp_path: Path) -> None:
    ledger = opened(tmp_path)

    def fail() -> None:
        raise OSError("no space left")

    ledger.commit_behind(1, ("learn",), fail)
    with pytest.raises(OSError, match="no space left"):
        ledger.commit(1, "evaluate", lambda writer: {})
    assert ledger.committed(1, "evaluate") is None
    ledger.close()
