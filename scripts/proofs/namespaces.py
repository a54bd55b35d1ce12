"""Machines made of namespaces: each with a network address, a host name, processes and an object store of its own.

The first process of a machine is a `cat` that waits for the end of this one: however this one ends, the kernel then
ends whatever runs on the machine. A bridge in one more network namespace joins the machines; this machine's own network
is not touched, and nothing of theirs is left. Needs Linux, root, and `ip`, `nsenter`, `unshare`.
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
SETTINGS = ("RAY_AUTH_MODE=disabled",)  # nobody else is on that network
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
        there = ("--mount", "--uts", "--ipc", "--net", "--pid", "--wd")
        return ["nsenter", f"--target={self.pid}", *there, "env", *SETTINGS, *command]

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
    """A Ray cluster of so many machines, started as the launchers do it; and its address.

    Ray (2.60) gives a node 30 s to come up, which a busy machine may not: it is tried again then, on other machines.
    Raises UnavailableError, or CalledProcessError where Ray does not come up.
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
            print("namespaces: not all nodes came up; once more", file=sys.stderr, flush=True)


def _node(machine: Machine, head: Machine, cpus: int) -> subprocess.Popen[bytes]:
    own = ("LAUNCH_CLIENT_PORT=10001", f"LAUNCH_CPUS={cpus}", "LAUNCH_OBJECT_STORE_MIB=200", "LAUNCH_TMP=/tmp/ray")
    role = "head" if machine is head else "worker"
    node = ("bash", str(LAUNCH / "node.sh"), role, head.address, str(PORT))
    return subprocess.Popen(
        machine.command("env", f"LAUNCH_PYTHON={sys.executable}", *own, *node), stdin=subprocess.DEVNULL
    )


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
    command = ["nsenter", f"--target={pid}", "--net", "sh", "-c", script]
    try:
        subprocess.run(command, capture_output=True, text=True, check=True)
    except OSError as error:
        raise UnavailableError(str(error)) from error
    except subprocess.CalledProcessError as error:
        raise UnavailableError(error.stderr.strip()) from error
