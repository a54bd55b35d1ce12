"""The network: interfaces that variables name, a Ray cluster that may not be there, servers of judges, and W&B."""

from __future__ import annotations

import netrc
import socket
from collections.abc import Collection, Iterator, Mapping
from pathlib import Path
from urllib.parse import urlsplit

from rlhf_flow.cluster.joining import joined
from rlhf_flow.doctor import clocks
from rlhf_flow.doctor.finding import Finding, ok, problem, warning
from rlhf_flow.observe.settings import WandbSettings

INTERFACES = ("NCCL_SOCKET_IFNAME", "GLOO_SOCKET_IFNAME")
NAMED = "a name that ip link shows, or leave the variable out"
SECONDS = 3.0  # longest wait for a server to accept


def interfaces(environment: Mapping[str, str], there: Collection[str] | None = None) -> Iterator[Finding]:
    """NCCL takes prefixes, `=name` for exactly one and `^name` for all others; gloo takes names."""
    have = {name for _, name in socket.if_nameindex()} if there is None else set(there)
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
                f"{variable}={value}: there is no interface {', '.join(missing)} here, only {', '.join(sorted(have))}",
                f"{variable}={NAMED}",
            )
        else:
            yield ok("network", f"{variable}={value}")
    if environment.get("NCCL_P2P_DISABLE") == "1" or environment.get("NCCL_IB_DISABLE") == "1":
        yield warning(
            "network", "NCCL_P2P_DISABLE or NCCL_IB_DISABLE slows ranks down", "unset it where GPUs are linked"
        )


def ray_cluster(address: str | None, environment: Mapping[str, str], *, nodes: int = 1) -> Iterator[Finding]:
    """Whether the cluster that the run would join is there, has its nodes, and these agree on the time."""
    given = address or environment.get("RAY_ADDRESS")
    if not given:
        return
    yield (head := _head("cluster.address" if address else "RAY_ADDRESS", given))
    if head.level != "ok" or given == "local":
        return
    offsets = clocks.measured(given)
    if offsets is None:
        sound = "ask ray status whether the cluster is sound"
        yield warning("network", f"the nodes of {given} did not tell the time", sound)
        return
    yield enough(len(offsets), nodes)
    yield from clocks.judged(offsets)


def enough(there: int, nodes: int) -> Finding:
    """Whether as many nodes have joined as a run waits for."""
    if there < nodes:
        return warning(
            "network",
            f"{joined(there, nodes)}: a run waits for the others for cluster.fault_tolerance.start_seconds, "
            "and then ends",
            f"ray start --address=... on the others, or cluster.nodes={there}",
        )
    return ok("network", f"cluster.nodes={nodes}, joined: {there}")


def _head(key: str, given: str) -> Finding:
    """Whether somebody is at the address that a key gives."""
    if given in ("auto", "local"):
        return ok("network", f"{key}={given}")
    way_out = "start it (ray start --head), correct the address, or " + (
        "unset RAY_ADDRESS" if key == "RAY_ADDRESS" else f"leave {key} out"
    )
    target = urlsplit(given if "://" in given else f"ray://{given}")
    try:
        host, port = target.hostname, target.port
    except ValueError:
        host = port = None
    if host is None or port is None:
        return problem(
            "network", f"{key}={given} is no host:port", f"{key}=host:6379, or leave it out for a new cluster"
        )
    return _reachable(f"{key}={given}", host, port, way_out)


def servers(urls: Collection[str], *, key: str) -> Iterator[Finding]:
    """Whether somebody listens at each url of a judge."""
    for url in urls:
        target = urlsplit(url)
        port = target.port or (443 if target.scheme == "https" else 80)
        if target.hostname is None:
            yield problem("network", f"{key}={url} is no url", f"{key}=http://host:port")
        else:
            yield _reachable(f"{key}={url}", target.hostname, port, f"start the server, or correct {key}")


def _reachable(what: str, host: str, port: int, way_out: str) -> Finding:
    try:
        socket.create_connection((host, port), timeout=SECONDS).close()
    except OSError as error:
        return problem("network", f"{what}: nobody is there ({error})", way_out)
    return ok("network", f"{what} answers")


def wandb(settings: WandbSettings, environment: Mapping[str, str], home: Path | None = None) -> Iterator[Finding]:
    """Whether the run can log where it is to log."""
    if settings.mode == "disabled":
        return
    said = environment.get("WANDB_MODE")
    if said and said != settings.mode:
        yield warning(
            "observers",
            f"WANDB_MODE={said}, and observe.wandb.mode={settings.mode}",
            "unset WANDB_MODE: the configuration says it",
        )
    if settings.mode == "online" and not environment.get("WANDB_API_KEY") and not _logged_in(environment, home):
        yield problem(
            "observers",
            "observe.wandb.mode=online, and there is no key: neither WANDB_API_KEY nor a login",
            "wandb login, or observe.wandb.mode=offline",
        )
    else:
        yield ok("observers", f"W&B {settings.mode}")


def _logged_in(environment: Mapping[str, str], home: Path | None) -> bool:
    """Whether there is an entry for W&B in the netrc file. Its content is not looked at."""
    file = Path(environment.get("NETRC") or (home or Path.home()) / ".netrc")
    try:
        hosts = netrc.netrc(file).hosts
    except (OSError, netrc.NetrcParseError):
        return False
    return any("wandb" in host for host in hosts)
