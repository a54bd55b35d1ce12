"""The measurement of transfers: what it counts, what it prints, and the whole of it on a small model."""

from __future__ import annotations

import importlib
import os
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from rlhf_flow.weights.buckets import MIB

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parents[2]
meters, page = (importlib.import_module(f"transfer.{name}") for name in ("meters", "page"))


def figures(**changed: object) -> object:
    seconds = {"copy": 1.0, "publish": 14.0, "gather": 2.0, "hash": 3.0, "put": 4.0, "probe": 1.0, "load": 6.0}
    others = {"fresh": False, "published": (MIB, 0), "arrived": True}
    return page.Figures(**{**seconds, **others, **changed})


def rows(*runs: object) -> dict[str, list[str]]:
    """The columns of a table by its rows; of two that have the same name, the second."""
    return {(words := line.split())[0]: words[1:] for line in page.table(runs, 1_000_000_000)}


def test_a_way_is_put_and_load_and_fresh_pages_are_told_apart() -> None:
    found = rows(figures(), figures(load=12.0, copy=2.0), figures(load=2.0), figures(put=34.0, fresh=True))
    assert found["copy"][:3] == ["1.00", "0.50", "1.00"]
    assert found["other"][0] == "0.25"
    assert found["put+get"][:4] == ["0.10", "0.06", "0.17", "0.12"]
    assert found["into"] == ["fresh", "pages,", "1", "times:", "put", "0.03,", "load", "0.17,", "put+get", "0.03"]


def test_the_memory_of_each_rank_is_compared_with_what_it_may_take() -> None:
    assert re.search(r"publish +1\.0, 0\.0; .* 3\.0$", *page.memory(figures(), 3 * MIB))


def test_memory_counts_what_a_process_takes_while_it_is_watched_and_nothing_later() -> None:
    memory, before = meters.Memory(), np.ones(8 * MIB, np.uint8)
    memory.watch()
    first = np.ones(32 * MIB, np.uint8)
    memory.leave()
    second = np.ones(64 * MIB, np.uint8)
    assert 31 * MIB < memory.taken < 40 * MIB
    assert before.all() and first.all() and second.all()


@pytest.mark.soak  # the transfers themselves: tests/cluster/weight_sync/test_transport.py
@pytest.mark.ray
@pytest.mark.timeout(1200)  # two clusters, whose processes start slowly on a busy machine
def test_weights_arrive_by_every_transport_within_a_bucket_and_a_layer() -> None:
    command = [
        sys.executable,
        "-W",
        "ignore",
        str(ROOT / "scripts" / "bench" / "transfers.py"),
        "--engines",
        "huggingface",
    ]
    ways = ["object_store", "disk"]
    asked = ["--mib", "8", "--bucket-mib", "1", "--repeat", "1", "--transports", *ways]
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    done = subprocess.run([*command, *asked], capture_output=True, text=True, timeout=1100, env=environment)
    assert done.returncode == 0, done.stdout + done.stderr
    assert re.findall(r"^(\w+) to huggingface: 10 MiB in buckets of 1 MiB$", done.stdout, re.MULTILINE) == ways
    assert done.stdout.count("what the engine holds is what was published: yes") == len(ways)
    assert "warning" not in done.stdout
