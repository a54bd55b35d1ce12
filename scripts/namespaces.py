"""Machines made of namespaces: each with a network address, a host name, processes and an object store of its own.

The first process of a machine is a `cat` that waits for the end of this one: however this one ends, the kernel then
ends whatever runs on the machine. A bridge in one more network namespace joins the machines; this machine's own network
is not touched, and nothing of theirs is left. Needs Linux, root, and `ip`, `nsenter`, `unshare`.
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

import psutil

NETWORK = "10.77.0"
PORT = 6379
SWITCH = "ip link add bridge type bridge && ip link set bridge up"
# The route to everywhere leads nowhere: Ray and vLLM look at it to learn which address is theirs.
JOIN = "ip link set lo up && ip addr add {address}/24 dev eth0 && ip link set eth0 up && ip route add default dev eth0"
APART = (  # Ray's files and shared memory are the machine's own; hosts know each other by name
    "mkdir -p /tmp/ray && mount -t tmpfs tmpfs /tmp/ray && mount -t tmpfs tmpfs /dev/shm && "
    "mount --bind {hosts} /etc/hosts && hostname {name}"
)


class UnavailableError(RuntimeError):
    """No namespaces can be had here, and why."""


@dataclass(frozen=True)
class Machine:
    name: str
    address: str
    pid: int  # of its first process, as this one sees it

    def command(self, *command: str) -> list[str]:
        """What runs that command there, in the working directory of this process."""
        return ["nsenter", f"--target={self.pid}", "--mount", "--uts", "--ipc", "--net", "--pid", "--wd", *command]

    def has(self, pid: int) -> bool:
        """Whether a process runs there."""
        return Path(f"/proc/{self.pid}/ns/net").samefile(f"/proc/{pid}/ns/net")


@contextmanager
def machines(number: int) -> Iterator[list[Machine]]:
    """So many machines that reach each other. Raises UnavailableError."""
    with ExitStack() as stack:
        names = {f"node-{index}": f"{NETWORK}.{index}" for index in range(1, number + 1)}
        hosts = Path(stack.enter_context(tempfile.TemporaryDirectory())) / "hosts"
        hosts.write_text("".join(f"{at} {name}\n" for name, at in {"localhost": "127.0.0.1", **names}.items()))
        switch = stack.enter_context(_apart(SWITCH, "--net"))
        found = []
        for index, (name, address) in enumerate(names.items(), start=1):
            own = ("--net", "--mount", "--uts", "--ipc", "--pid", "--fork", "--mount-proc", "--kill-child")
            pid = stack.enter_context(_apart(APART.format(hosts=hosts, name=name), *own))
            cable = f"ip link add port{index} type veth peer name eth0 netns {pid} && "
            _on_network(switch, f"{cable} ip link set port{index} master bridge up")
            _on_network(pid, JOIN.format(address=address))
            found.append(Machine(name, address, pid))
        yield found


@contextmanager
def raylets(number: int, *, cpus: int) -> Iterator[tuple[list[Machine], str]]:
    """A Ray cluster with one raylet on each of so many machines; and its address. Raises UnavailableError."""
    with machines(number) as found:
        address = f"{found[0].address}:{PORT}"
        for index, machine in enumerate(found):
            where = (
                ["--head", f"--port={PORT}", "--include-dashboard=false"] if index == 0 else [f"--address={address}"]
            )
            own = [f"--node-ip-address={machine.address}", f"--num-cpus={cpus}", f"--object-store-memory={200 << 20}"]
            command = [sys.executable, "-m", "ray.scripts.scripts", "start", "--disable-usage-stats", *where, *own]
            _run(machine.command(*command), timeout=120)
        yield found, address


@contextmanager
def _apart(script: str, *namespaces: str) -> Iterator[int]:
    """A process in namespaces of its own that has done what the script says, and stays until we are gone; its pid."""
    command = ["unshare", *namespaces, "sh", "-c", f"{script} && echo done && exec cat"]
    try:
        holder = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    except OSError as error:
        raise UnavailableError(str(error)) from error
    with holder:  # it closes its stdin and waits for it
        assert holder.stdout is not None and holder.stderr is not None
        if holder.stdout.readline() != b"done\n":
            raise UnavailableError(holder.stderr.read().decode().strip())
        yield next((child.pid for child in psutil.Process(holder.pid).children()), holder.pid)


def _on_network(pid: int, script: str) -> None:
    _run(["nsenter", f"--target={pid}", "--net", "sh", "-c", script], timeout=30)


def _run(command: list[str], *, timeout: float) -> None:
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=timeout, stdin=subprocess.DEVNULL)
    except (OSError, subprocess.TimeoutExpired) as error:
        raise UnavailableError(str(error)) from error
    if done.returncode:
        raise UnavailableError(f"{' '.join(command[-4:])}: {(done.stdout + done.stderr).strip()[-2000:]}")
