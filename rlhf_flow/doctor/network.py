"""Checks of the network: interfaces, the Ray cluster to join, the servers of scorers, and W&B."""

from __future__ import annotations

import netrc
import socket
import subprocess
import sys
from collections.abc import Collection, Iterator, Mapping
from pathlib import Path
from urllib.parse import urlsplit

from rlhf_flow.cluster.joining import joined
from rlhf_flow.doctor.finding import Finding, ok, problem, warning
from rlhf_flow.observe.settings import WandbSettings

INTERFACES = ("NCCL_SOCKET_IFNAME", "GLOO_SOCKET_IFNAME")
CONNECT_SECONDS = 3.0  # timeout of a connection
COUNT_NODES = """
import sys
from rlhf_flow.cluster.joining import alive, join
join(sys.argv[1], nodes=1, seconds=1)
print(len(alive()))
"""
NODES_SECONDS = 120.0  # timeout of a look at the nodes of a Ray cluster


def interfaces(environment: Mapping[str, str], available: Collection[str] | None = None) -> Iterator[Finding]:
    """NCCL accepts prefixes, `=name` for exactly one and `^name` for all others; gloo accepts names."""
    have = {name for _, name in socket.if_nameindex()} if available is None else set(available)
    for variable in INTERFACES:
        value = environment.get(variable)
        if value is None:
            continue
        wanted = [] if value.startswith("^") else value.removeprefix("=").split(",")
        exact = value.startswith("=") or variable.startswith("GLOO")
        missing = [
            name for name in wanted if name not in have and (exact or not any(one.startswith(name) for one in have))
        ]
        if missing:
            yield problem(
                "network",
                f"{variable}={value}: there is no interface {', '.join(missing)}, only {', '.join(sorted(have))}",
                f"export {variable}=<a name that ip link shows>, or unset {variable}",
            )
        else:
            yield ok("network", f"{variable}={value}")
    if environment.get("NCCL_P2P_DISABLE") == "1" or environment.get("NCCL_IB_DISABLE") == "1":
        yield warning(
            "network",
            "NCCL_P2P_DISABLE or NCCL_IB_DISABLE slows ranks down",
            "unset NCCL_P2P_DISABLE NCCL_IB_DISABLE, if the GPUs are linked",
        )


def ray_cluster(address: str | None, environment: Mapping[str, str], *, nodes: int = 1) -> Iterator[Finding]:
    """Whether the cluster that the run would join answers, and has as many nodes as the run waits for."""
    given = address or environment.get("RAY_ADDRESS")
    if not given:
        return
    yield (head := _head("cluster.address" if address else "RAY_ADDRESS", given))
    if head.level == "ok" and given != "local":
        yield _count_nodes(given, nodes)


def _count_nodes(address: str, nodes: int) -> Finding:
    """Ask in a process of its own: joining a Ray cluster cannot be cancelled."""
    command = [sys.executable, "-c", COUNT_NODES, address]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=NODES_SECONDS, check=True)
        return enough(int(done.stdout.split()[-1]), nodes)
    except (subprocess.SubprocessError, ValueError, IndexError):
        return warning(
            "network", f"the cluster at {address} does not list its nodes", "check the cluster with: ray status"
        )


def enough(present: int, nodes: int) -> Finding:
    """Whether as many nodes have joined as a run waits for."""
    if present < nodes:
        return warning(
            "network",
            f"{joined(present, nodes)}: the run waits for the others up to cluster.fault_tolerance.start_seconds, "
            "then fails",
            f"ray start --address=... on the others, or cluster.nodes={present}",
        )
    return ok("network", f"cluster.nodes={nodes}, joined: {present}")


def _head(key: str, given: str) -> Finding:
    """Whether the address that a key gives accepts connections."""
    if given in ("auto", "local"):
        return ok("network", f"{key}={given}")
    remedy = "start it (ray start --head), correct the address, or " + (
        "unset RAY_ADDRESS" if key == "RAY_ADDRESS" else f"leave {key} out"
    )
    target = urlsplit(given if "://" in given else f"ray://{given}")
    try:
        host, port = target.hostname, target.port
    except ValueError:
        host = port = None
    if host is None or port is None:
        return problem(
            "network", f"{key}={given} is not of the form host:port", f"{key}=host:6379, or leave it out to start one"
        )
    return _reachable(f"{key}={given}", host, port, remedy)


def servers(urls: Collection[str], *, key: str) -> Iterator[Finding]:
    """Whether each URL of a scorer accepts connections."""
    for url in urls:
        target = urlsplit(url)
        port = target.port or (443 if target.scheme == "https" else 80)
        if target.hostname is None:
            yield problem("network", f"{key}={url} is not a URL", f"{key}=http://host:port")
        else:
            yield _reachable(f"{key}={url}", target.hostname, port, f"start the server, or correct {key}")


def _reachable(what: str, host: str, port: int, remedy: str) -> Finding:
    try:
        socket.create_connection((host, port), timeout=CONNECT_SECONDS).close()
    except OSError as error:
        return problem("network", f"{what} does not answer ({error})", remedy)
    return ok("network", f"{what} answers")


def wandb(settings: WandbSettings, environment: Mapping[str, str], home: Path | None = None) -> Iterator[Finding]:
    """Whether the run can log to W&B as configured."""
    if settings.mode == "disabled":
        return
    variable = environment.get("WANDB_MODE")
    if variable and variable != settings.mode:
        yield warning(
            "observers",
            f"WANDB_MODE={variable}, but observe.wandb.mode={settings.mode}",
            "unset WANDB_MODE; the configuration decides",
        )
    if settings.mode == "online" and not environment.get("WANDB_API_KEY") and not _logged_in(environment, home):
        yield problem(
            "observers",
            "observe.wandb.mode=online, but there is no key: neither WANDB_API_KEY nor a login",
            "wandb login, or observe.wandb.mode=offline",
        )
    else:
        yield ok("observers", f"W&B {settings.mode}")


def _logged_in(environment: Mapping[str, str], home: Path | None) -> bool:
    """Whether the netrc file has an entry for W&B. The entry itself is not read."""
    file = Path(environment.get("NETRC") or (home or Path.home()) / ".netrc")
    try:
        hosts = netrc.netrc(file).hosts
    except (OSError, netrc.NetrcParseError):
        return False
    return any("wandb" in host for host in hosts)
