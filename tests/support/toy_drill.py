"""The crash drill on the toy: SIGKILL before and after every rename a run makes, at a time; resume; compare everything.

A run changes its folder by renames only, so their two sides are all the states a crash can leave (files half written
aside are among them: the kill before a rename leaves them). Run as a program: prints one JSON line. Children are forked
before any library has started threads.
"""

from __future__ import annotations

import errno
import json
import os
import signal
import sys
import tempfile
from pathlib import Path

import pyarrow as pa

from tests.support import toy

pa.Table.from_pylist([{"rows": 1}])  # what pyarrow imports on first use is imported here, not once in every child


def counted(root: Path, settings: dict, at: int, *, after: bool, count: Path) -> None:
    """In a child: run the toy; die by SIGKILL at the rename number `at` (0: never), and count the renames."""
    rename, made = os.replace, 0

    def replace(source: object, target: object) -> None:
        nonlocal made
        made += 1
        if made == at and not after:
            os.kill(os.getpid(), signal.SIGKILL)
        rename(source, target)
        if made == at and after:
            os.kill(os.getpid(), signal.SIGKILL)

    os.replace = replace
    toy.run(root, **settings)
    count.write_text(str(made))


def full_disk(root: Path, settings: dict, at: int) -> None:
    """In a child: run the toy on a disk that is full at the flush number `at`. The run must say so, not go on."""
    flush, made = os.fsync, 0

    def fsync(descriptor: int) -> None:
        nonlocal made
        made += 1
        if made == at:
            raise OSError(errno.ENOSPC, "No space left on device")
        flush(descriptor)

    os.fsync = fsync
    try:
        toy.run(root, **settings)
    except OSError as failure:
        assert failure.errno == errno.ENOSPC
        os._exit(3)


def in_child(function: object, *arguments: object, **named: object) -> int:
    """Run in a forked process; return its exit status (-9 for SIGKILL)."""
    pid = os.fork()
    if pid == 0:
        try:
            function(*arguments, **named)
        except BaseException as failure:
            print(f"{type(failure).__name__}: {failure}", file=sys.stderr)
            os._exit(1)
        os._exit(0)
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


def outcome(root: Path) -> dict:
    """Everything of a finished run that must not depend on its crashes."""
    records = [json.loads(path.read_text()) for path in sorted(root.glob("rounds/*/record.json"))]
    lines = [json.loads(line) for line in (root / "metrics.jsonl").read_text().splitlines()]
    return {
        "final": json.loads((root / "final.json").read_text())["sha256"],
        "policies": [record["policy"] for record in records],
        "files": [record["files"] for record in records],
        "plans": [record["plan"] for record in records],
        "metrics": [{key: line[key] for key in line if not key.startswith("seconds/")} for line in lines],
    }


def drill(settings: dict, stride: int) -> dict:
    memory = Path("/dev/shm")  # where flushing costs nothing
    with tempfile.TemporaryDirectory(dir=memory if memory.is_dir() else None) as name:
        folder = Path(name)
        count = folder / "count"
        assert in_child(counted, folder / "whole", settings, 0, after=False, count=count) == 0
        whole, renames = outcome(folder / "whole"), int(count.read_text())
        kills, differing = 0, []
        for at in range(1, renames + 1, stride):
            for after in (False, True):
                root = folder / f"kill-{at}-{after}"
                status = in_child(counted, root, settings, at, after=after, count=count)
                assert status == -signal.SIGKILL, f"rename {at}: the run was to be killed, and exited {status}"
                kills += 1
                status = in_child(counted, root, settings, 0, after=False, count=count)
                if status != 0 or outcome(root) != whole:
                    differing.append(f"rename {at}, {'after' if after else 'before'}: exit {status}")
        full = 0
        for at in range(1, renames, 7 * stride):
            root = folder / f"full-{at}"
            status = in_child(full_disk, root, settings, at)
            assert status == 3, f"flush {at}: the disk was full, and the run exited {status}"
            full += 1
            status = in_child(counted, root, settings, 0, after=False, count=count)
            if status != 0 or outcome(root) != whole:
                differing.append(f"disk full at flush {at}: exit {status}")
        return {"renames": renames, "kills": kills, "full_disks": full, "differing": differing}


if __name__ == "__main__":
    print(json.dumps(drill(json.loads(sys.argv[1]), int(sys.argv[2]))))
