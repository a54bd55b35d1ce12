"""Compare a run on several nodes with the same run on one: raylets of this machine, each with its own object store.

Runs `rlhf-flow` twice: with engines, scorers and learner ranks spread over the nodes, and with all of them on one node.
Compares everything that both committed: responses, scores, pairs, log-probs of anchors, weights. Prints what differs.

    python scripts/proofs/nodes.py --nodes 3 -- rounds=1  # raylets on loopback
    python scripts/proofs/nodes.py --namespaces           # each in its own network namespace; needs root
    python scripts/proofs/nodes.py --nodes 1 --colocated  # all roles take turns in the same places and share memory

Exit status 1 if anything differs, 2 if namespaces are not available.
"""

from __future__ import annotations

import argparse
import hashlib
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING

import namespaces
from drill import SMALL, workers_of

from rlhf_flow.cluster.joining import environment

if TYPE_CHECKING:
    from ray.cluster_utils import Cluster

SAME = (  # makes float32 sums equal: the same ranks, one thread each, the same batches for scorers
    "checkpoint.prompts_per_commit=8",
    "learner.ranks=4",
    "learner.training.threads=1",
    "cluster.prompts_per_task=2",
)
SPREAD = ("cluster.engines=2", "cluster.scorers=2")
COLOCATED = ("cluster=colocated",)
NODE = {"num_cpus": 16, "object_store_memory": 200 << 20, "node_ip_address": "127.0.0.1"}
HEAD = NODE | {"include_dashboard": False}  # the dashboard has ten processes
CPUS = 3  # of a machine made of namespaces: so few that the learner's ranks need two machines
NODES = """
import sys, ray
ray.init(address=sys.argv[1], log_to_driver=False, logging_level="ERROR")
for node in sorted(ray.nodes(), key=lambda node: node["NodeManagerAddress"]):
    own = {name: amount for name, amount in node["Resources"].items() if name in ("CPU", "GPU", "object_store_memory")}
    print(node["NodeID"], node["NodeManagerAddress"], own, flush=True)
"""


@contextmanager
def raylets(number: int) -> Iterator[Cluster]:
    """A cluster of raylets on loopback, each with its own object store. The driver joins the first."""
    with environment():
        from ray.cluster_utils import Cluster

        cluster = Cluster(initialize_head=True, head_node_args=HEAD)
        try:
            for _ in range(1, number):
                cluster.add_node(**NODE)
            cluster.wait_for_nodes()
            yield cluster
        finally:
            cluster.shutdown()


def hashes(run: Path, rounds: int) -> dict[str, str]:
    """sha256 of every table and weight file that the rounds up to `rounds` committed, if it still exists."""
    found = {}
    for path in sorted((run / "rounds").rglob("*")):
        relative = path.relative_to(run)
        if int(relative.parts[1]) > rounds or any(part.startswith(".") for part in relative.parts):
            continue  # not committed when the run ended
        if path.is_file() and path.suffix in (".parquet", ".safetensors") and "evaluation" not in relative.parts:
            found[str(relative)] = hashlib.sha256(path.read_bytes()).hexdigest()
    return found


def on_loopback(nodes: int, run: list[str]) -> None:
    """The run on raylets that share the loopback address. The driver joins the first."""
    with raylets(nodes) as cluster:
        subprocess.run([sys.executable, "-c", NODES, cluster.address], check=True)
        subprocess.run([*run, f"cluster.address={cluster.address}"], check=True)


def on_machines(nodes: int, run: list[str]) -> None:
    """The run on machines made of namespaces, with the driver on the first. Prints which workers ran on each."""
    os.environ |= {"RLHF_FLOW_DRIVER": str(os.getpid()), "TOKENIZERS_PARALLELISM": "false"}
    with namespaces.raylets(nodes, cpus=CPUS) as (machines, address):
        subprocess.run(machines[0].command(sys.executable, "-c", NODES, address), check=True)
        seen: dict[str, set[str]] = {machine.address: set() for machine in machines}
        running = subprocess.Popen(machines[0].command(*run, f"cluster.address={address}"))
        while running.poll() is None:
            for name, process in workers_of(os.getpid()):
                with suppress(OSError):  # the process has ended
                    seen[next(machine.address for machine in machines if machine.has(process.pid))].add(name)
            time.sleep(1)
        for address, names in seen.items():
            print(f"{address} ran {', '.join(sorted(names))}")
        if running.returncode:
            raise subprocess.CalledProcessError(running.returncode, running.args)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--nodes", type=int, default=3)
    parser.add_argument("--namespaces", action="store_true", help="give each node its own network namespace")
    parser.add_argument("--colocated", action="store_true", help="all roles take turns in the same places")
    parser.add_argument("overrides", nargs="*", help="of both runs, after --")
    asked = parser.parse_args()
    run = [sys.executable, "-m", "rlhf_flow", "run", *SMALL, *SAME, *asked.overrides]
    spread = [*SPREAD, *(COLOCATED if asked.colocated else ())]
    with tempfile.TemporaryDirectory() as folder:
        apart, together = Path(folder) / "apart", Path(folder) / "together"
        try:
            started = on_machines if asked.namespaces else on_loopback
            started(asked.nodes, [*run, *spread, f"run_dir={apart}"])
            subprocess.run([*run, f"run_dir={together}"], check=True)
        except namespaces.UnavailableError as error:
            print(f"nodes: there can be no namespaces here: {error}", file=sys.stderr)
            return 2
        except subprocess.CalledProcessError as error:
            return error.returncode
        one, other = hashes(apart, 10**6), hashes(together, 10**6)
    differing = sorted(path for path in one.keys() | other.keys() if one.get(path) != other.get(path))
    for path in differing:
        print(f"differs: {path}")
    where = f"on {asked.nodes} nodes{', colocated,' if asked.colocated else ''}"
    print(f"{len(one) - len(differing)} of {len(one)} files {where} are those of one node, bit for bit")
    return 1 if differing or not one else 0


if __name__ == "__main__":
    sys.exit(main())
