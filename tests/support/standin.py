"""Stands for srun, scontrol, ssh and the installation's Python where there is one machine: `standin.py NAME ARGUMENTS`.

Nodes of SLURM and hosts of ssh are processes of this machine. `ray start` is a process that listens where the head
would; WITH_RAY hands it to the real one. What was asked of whom is written to RECORD, a JSON object a line.
"""

import json
import os
import signal
import socket
import subprocess
import sys
import time


def tell(what, **more):
    line = json.dumps({"what": what, "pid": os.getpid(), **more}) + "\n"
    file = os.open(os.environ["RECORD"], os.O_WRONLY | os.O_APPEND | os.O_CREAT)
    os.write(file, line.encode())
    os.close(file)


def told(what):
    if not os.path.exists(os.environ["RECORD"]):  # noqa: PTH110 # starts faster without pathlib
        return []
    with open(os.environ["RECORD"]) as lines:  # noqa: PTH123
        return [line for line in map(json.loads, lines) if line["what"] == what]


def scontrol(arguments):
    tell("scontrol", argv=arguments)
    if arguments[:2] == ["show", "hostnames"]:
        print("\n".join(arguments[2].split(",")))
    return 0


def srun(arguments):
    tell("srun", argv=arguments)
    options = dict(word.lstrip("-").split("=", 1) for word in arguments if word.startswith("--") and "=" in word)
    command = arguments[[word.startswith("-") for word in arguments].index(False) :]
    tasks = [subprocess.Popen(command) for _ in range(int(options["ntasks"]))]
    signal.signal(signal.SIGTERM, lambda *_: [task.terminate() for task in tasks])
    return max(task.wait() for task in tasks)


def ssh(arguments):
    """The host's own environment and folder, and its login shell."""
    while arguments[0].startswith("-"):
        arguments = arguments[2 if arguments[0] == "-o" else 1 :]
    host, command = arguments
    tell("ssh", host=host, command=command)
    if host == "unreachable":
        sys.exit(255)
    kept = {name: os.environ[name] for name in ("PATH", "HOME", "RECORD", "WITH_RAY") if name in os.environ}
    os.chdir("/")
    os.execve("/bin/sh", ["sh", "-c", command], {**kept, "SSH_CONNECTION": f"{os.environ['HEAD']} 50000 {host} 22"})


def python(arguments):
    if arguments[:2] == ["-m", "rlhf_flow"]:
        sys.exit(rlhf_flow(arguments[2:]))
    if not os.environ.get("WITH_RAY"):
        if arguments[:2] == ["-m", "ray.scripts.scripts"]:
            sys.exit(ray(arguments[3:]))
        if arguments[0].endswith("joined.py"):
            sys.exit(joined(int(arguments[1]), float(arguments[2])))
    os.execv(sys.executable, [sys.executable, *arguments])


def ray(arguments):
    role = "head" if "--head" in arguments else "worker"
    if os.environ.get("LAUNCH_FAILS") == role:
        print(f"the {role} has no luck", file=sys.stderr)
        return 3
    options = dict(word.lstrip("-").split("=", 1) for word in arguments if "=" in word)
    server = None
    if role == "head":
        server = socket.create_server((options["node-ip-address"], int(options["port"])))
    ended = []
    signal.signal(signal.SIGTERM, lambda *_: ended.append(True))
    tell(role, options=options, environ=dict(os.environ))
    while not ended:
        time.sleep(0.05)
    if server is not None:
        server.close()
    tell(f"{role} ended")
    return 143


def joined(nodes, seconds):
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        if len(told("head")) + len(told("worker")) == nodes:
            return 0
        time.sleep(0.05)
    return 1


def rlhf_flow(arguments):
    tell("run", argv=arguments, environ=dict(os.environ))
    if os.environ.get("WITH_RAY"):
        nodes()
    try:
        if "long" in arguments:
            tell("at work")
            time.sleep(200)
    except KeyboardInterrupt:
        if "deaf" in arguments:
            time.sleep(200)
        tell("stopped")
        return 130
    return int(os.environ.get("STATUS", "0"))


def nodes():
    """Which nodes the cluster has, and where a task ran that was sent to each."""
    import ray
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy as On

    ray.init(logging_level="ERROR", log_to_driver=False)
    found = [node["NodeID"] for node in ray.nodes() if node["Alive"]]
    here = ray.remote(lambda: ray.get_runtime_context().get_node_id())
    places = [here.options(scheduling_strategy=On(node, soft=False)).remote() for node in found]
    tell("cluster", nodes=found, places=ray.get(places))


if __name__ == "__main__":
    sys.exit({"scontrol": scontrol, "srun": srun, "ssh": ssh, "python": python}[sys.argv[1]](sys.argv[2:]))
