"""Machines made of namespaces: each has its own network address, host name, processes and object store.

The first process of a machine is a `cat` that waits for the end of this process. When this process ends for any reason,
the kernel ends all processes of the machine. A bridge in another network namespace connects the machines. The network
of the host does not change, and nothing is left behind. Needs Linux, root, and `ip`, `nsenter`, `unshare`.
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

import psutil

NETWORK = "10.77.0"
PORT = 6379
TRIES = 3
LAUNCH = Path(__file__).parents[1] / "launch"
SETTINGS = ("RAY_AUTH_MODE=disabled",)  # the network has no other users
SWITCH = "ip link add bridge type bridge && ip link set bridge up"
# The default route leads nowhere, but Ray and vLLM read it to find their own address.
JOIN = "ip link set lo up && ip addr add {address}/24 dev eth0 && ip link set eth0 up && ip route add default dev eth0"
APART = (  # each machine has its own Ray files and shared memory, and resolves the names of all
    "mkdir -p /tmp/ray && mount -t tmpfs tmpfs /tmp/ray && mount -t tmpfs tmpfs /dev/shm && "
    "mount --bind {hosts} /etc/hosts && hostname {name}"
)


class UnavailableError(RuntimeError):
    """Namespaces are not available here; the message says why."""


@dataclass(frozen=True)
class Machine:
    name: str
    address: str
    pid: int  # of its first process, as seen from this process

    def command(self, *command: str) -> list[str]:
        """A command line that runs the command on the machine, in the working directory of this process."""
        there = ("--mount", "--uts", "--ipc", "--net", "--pid", "--wd")
        return ["nsenter", f"--target={self.pid}", *there, "env", *SETTINGS, *command]

    def has(self, pid: int) -> bool:
        """Whether a process runs on the machine."""
        return Path(f"/proc/{self.pid}/ns/net").samefile(f"/proc/{pid}/ns/net")


@contextmanager
def machines(number: int) -> Iterator[list[Machine]]:
    """Machines that can reach each other. Raises UnavailableError."""
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
    """A Ray cluster on this number of machines, started as the launchers do it; and its address.

    Ray (2.60) gives a node 30 s to start. On a busy machine this can be too short; it is then retried on new machines.
    Raises UnavailableError, or CalledProcessError if Ray does not start.
    """
    if " " in sys.executable:
        raise UnavailableError(f"Ray (2.60) starts a server of its head by a shell that splits {sys.executable!r}")
    for further in reversed(range(TRIES)):
        with ExitStack() as nodes, machines(number) as found:  # nodes end with their machines
            address = f"{found[0].address}:{PORT}"
            started = [nodes.enter_context(_node(machine, found[0], cpus)) for machine in found]
            joined = ("env", f"RAY_ADDRESS={address}", sys.executable, str(LAUNCH / "joined.py"), str(number), "120")
            with subprocess.Popen(found[0].command(*joined)) as joining:
                while joining.poll() is None and all(node.poll() is None for node in started):
                    time.sleep(0.2)
                joining.kill()
            if joining.returncode == 0:
                yield found, address
                return
            if not further:
                raise subprocess.CalledProcessError(joining.returncode, joining.args)
            print("namespaces: not all nodes started; retrying", file=sys.stderr, flush=True)


def _node(machine: Machine, head: Machine, cpus: int) -> subprocess.Popen[bytes]:
    own = ("LAUNCH_CLIENT_PORT=10001", f"LAUNCH_CPUS={cpus}", "LAUNCH_OBJECT_STORE_MIB=200", "LAUNCH_TMP=/tmp/ray")
    role = "head" if machine is head else "worker"
    node = ("bash", str(LAUNCH / "node.sh"), role, head.address, str(PORT))
    return subprocess.Popen(
        machine.command("env", f"LAUNCH_PYTHON={sys.executable}", *own, *node), stdin=subprocess.DEVNULL
    )


@contextmanager
def _apart(script: str, *namespaces: str) -> Iterator[int]:
    """Run the script in a process with its own namespaces, which stays until this process ends; yields its pid."""
    command = ["unshare", *namespaces, "sh", "-c", f"{script} && echo done && exec cat"]
    try:
        holder = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    except OSError as error:
        raise UnavailableError(str(error)) from error
    with holder:  # at the end, closes its stdin and waits for it
        assert holder.stdout is not None and holder.stderr is not None
        if holder.stdout.readline() != b"done\n":
            raise UnavailableError(holder.stderr.read().decode().strip())
        yield next((child.pid for child in psutil.Process(holder.pid).children()), holder.pid)


def _on_network(pid: int, script: str) -> None:
    command = ["nsenter", f"--target={pid}", "--net", "sh", "-c", script]
    try:
        subprocess.run(command, capture_output=True, text=True, check=True)
    except OSError as error:
        raise UnavailableError(str(error)) from error
    except subprocess.CalledProcessError as error:
        raise UnavailableError(error.stderr.strip()) from error
