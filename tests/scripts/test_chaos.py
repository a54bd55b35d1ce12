"""The scripts that try a cluster: `make chaos` with faults that only it has; three nodes compute what one does."""

from __future__ import annotations

import os
import random
import socket
import subprocess
import sys
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from chaos import accounts, dealt, difference, times
from namespaces import UnavailableError, machines
from nodes import hashes
from ranks import relative

from rlhf_flow.sandbox.build import build

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parents[2]


KINDS = ["disk", "driver", "engine", "judge", "learner", "raylet", "scorer", "stop"]
TINY = (
    "rounds=1",
    "prompts.batch=8",
    "prompts.held_out=4",
    "sampler.draws.0.max_tokens=16",
    "checkpoint.prompts_per_commit=4",
)
ALONE = ("engine=huggingface", "engine.batch=1")  # up in seconds, and no sum depends on the company of an answer


def ended(script: str, *arguments: str, **settings: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, str(ROOT / "scripts/proofs" / script), *arguments]
    environment = os.environ | {"PYTHONPATH": str(ROOT)} | settings
    return subprocess.run(command, capture_output=True, text=True, timeout=1500, cwd=ROOT, env=environment)


def printed(script: str, *arguments: str) -> str:
    build()
    done = ended(script, *arguments)
    assert done.returncode == 0, (done.stdout + done.stderr)[-5000:]
    return done.stdout


def responses(run: Path, round: int, *tables: list[str]) -> None:
    folder = run / f"rounds/{round:05d}/responses"
    folder.mkdir(parents=True)
    for piece, ids in enumerate(tables):
        pq.write_table(pa.table({"response": ids}), folder / f"{piece:05d}.parquet")


def test_every_deck_holds_each_kind_of_fault_once() -> None:
    deck = dealt(KINDS, random.Random(0))
    decks = [[next(deck) for _ in KINDS] for _ in range(20)]
    assert all(sorted(each) == KINDS for each in decks)
    assert len({tuple(each) for each in decks}) > 10, "decks are not shuffled"


def test_a_seed_deals_the_same_faults_again() -> None:
    one, other, third = (dealt(KINDS, random.Random(seed)) for seed in (1, 1, 2))
    first = [next(one) for _ in range(40)]
    assert first == [next(other) for _ in range(40)] != [next(third) for _ in range(40)]


def test_a_response_is_missed_or_found_twice_in_its_own_round(tmp_path: Path) -> None:
    ours, theirs = tmp_path / "ours", tmp_path / "theirs"
    responses(theirs, 1, ["a", "b"], ["c"])
    responses(theirs, 2, ["d"], ["e"])
    responses(ours, 1, ["a", "b"], ["b", "c", "d"])  # b twice, and d is of another round
    responses(ours, 2, ["e"])  # d is missing
    assert difference(accounts(ours, 2), accounts(theirs, 2)) == (1, 2)
    assert difference(accounts(theirs, 2), accounts(theirs, 2)) == (0, 0)


def test_what_a_round_had_not_committed_is_not_compared(tmp_path: Path) -> None:
    responses(tmp_path, 1, ["a"])
    responses(tmp_path, 2, ["b"])
    responses(tmp_path / "rounds/00001/.aside", 7, ["c"])
    assert list(hashes(tmp_path, 1)) == ["rounds/00001/responses/00000.parquet"]


def test_times_to_recover_are_told_by_kind_and_for_all() -> None:
    scorer, stop, every = (" ".join(line.split()) for line in times({"stop": [20.0], "scorer": [1.0, 3.0]}))
    assert scorer == "scorer 2 faults; to recover: mean 2.0 s, longest 3.0 s"
    assert stop == "stop 1 faults; to recover: mean 20.0 s, longest 20.0 s"
    assert every == "all 3 faults; to recover: mean 8.0 s, longest 20.0 s"


def test_the_tensor_that_differs_most_is_named_with_its_relative_difference() -> None:
    one = {"big": torch.tensor([3.0, 4.0]), "small": torch.tensor([0.0, 0.5])}
    other = {"big": torch.tensor([3.0, 4.5]), "small": torch.tensor([0.0, 0.5])}
    whole, worst, largest = relative(other, one)
    assert worst == "big"
    assert largest == pytest.approx(0.1)
    assert whole == pytest.approx(0.5 / 25.25**0.5)


def test_without_the_tools_for_namespaces_it_is_said() -> None:
    done = ended("nodes.py", "--namespaces", PATH="")
    assert done.returncode == 2
    cause = "a shell that splits" if " " in sys.executable else "unshare"  # the interpreter is checked first
    assert "there can be no namespaces here" in done.stderr and cause in done.stderr


def test_machines_reach_each_other_and_nothing_is_left_of_them() -> None:
    listen = "import socket; s = socket.create_server(('', 5000)); print('up', flush=True); print(s.accept()[1][0])"
    connect = "import socket; socket.create_connection(('node-1', 5000), timeout=20)"
    ours = socket.if_nameindex()
    try:
        with machines(2) as (one, other):
            command = one.command(sys.executable, "-c", listen)
            listening = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, text=True)
            with listening:
                assert listening.stdout is not None
                assert listening.stdout.readline() == "up\n"
                subprocess.run(other.command(sys.executable, "-c", connect), check=True, timeout=60)
                assert listening.stdout.readline() == f"{other.address}\n"
            assert socket.if_nameindex() == ours
            forgotten = subprocess.Popen(one.command("sleep", "1000"), stdin=subprocess.DEVNULL)
            assert forgotten.poll() is None
    except UnavailableError as error:
        pytest.skip(str(error))
    assert forgotten.wait(timeout=60) != 0
    assert not Path(f"/proc/{one.pid}").exists()


@pytest.mark.soak
@pytest.mark.ray
@pytest.mark.timeout(1600)
def test_a_lost_raylet_a_lost_judge_and_a_full_disk_change_nothing() -> None:
    """In short, on the toy: tests/cluster/test_deaths.py, as workers that die or hang. All kinds: make chaos."""
    said = printed("chaos.py", "--decks", "1", "--kinds", "disk", "judge", "raylet")
    told = {line.split()[0] for line in said.splitlines() if "to recover: mean" in line}
    assert told in ({"disk", "judge", "raylet", "all"}, {"judge", "raylet", "all"})  # a full disk takes root
    assert "responses lost: 0; doubled: 0; files that differ: 0 of" in said
    assert "those of the undisturbed run" in said and "NOT" not in said


@pytest.mark.soak
@pytest.mark.ray
@pytest.mark.timeout(1600)
def test_three_nodes_compute_what_one_does() -> None:
    """Machines with addresses of their own, or raylets of one machine if it allows no namespaces.

    In short, on the toy: tests/cluster/test_deaths.py.
    """
    said = printed("nodes.py", *(["--namespaces"] if namespaces_here() else []), "--", *TINY, *ALONE)
    assert "on 3 nodes are those of one node, bit for bit" in said
    apart = sum("learner-" in line for line in said.splitlines() if line.startswith("10."))
    assert apart > 1 or not namespaces_here(), "ranks were not apart"


def namespaces_here() -> bool:
    try:
        with machines(1):
            return True
    except UnavailableError:
        return False
