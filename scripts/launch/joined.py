"""Wait until NODES nodes have joined the Ray cluster at RAY_ADDRESS: `joined.py NODES SECONDS`; status 1 on timeout."""

from __future__ import annotations

import sys
import time


def main(nodes: int, seconds: float) -> int:
    import ray

    until, alive = time.monotonic() + seconds, 0
    while time.monotonic() < until:
        try:
            if not ray.is_initialized():
                ray.init(logging_level="ERROR", log_to_driver=False)
            alive = sum(node["Alive"] for node in ray.nodes())
        except ConnectionError:
            ray.shutdown()  # the head is not up yet
        if alive >= nodes:
            print(f"{alive} nodes, {ray.cluster_resources().get('GPU', 0):g} GPUs", file=sys.stderr)
            return 0
        time.sleep(0.5)
    print(f"{alive} of {nodes} nodes had joined after {seconds:g} s (LAUNCH_WAIT_SECONDS)", file=sys.stderr)
    return 1


if __name__ == "__main__":
    sys.exit(main(int(sys.argv[1]), float(sys.argv[2])))
