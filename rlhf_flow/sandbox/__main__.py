"""`python -m rlhf_flow.sandbox`: build the embedded world, or say where it already is."""

from __future__ import annotations

import argparse
import functools
import json
import os
from pathlib import Path

from rlhf_flow.sandbox.build import build
from rlhf_flow.sandbox.world import locate


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m rlhf_flow.sandbox", description=__doc__)
    parser.add_argument("--root", type=Path, help="parent folder (default: ${RLHF_FLOW_HOME:-~/.cache/rlhf-flow})")
    root = parser.parse_args().root
    # Threads that wait for each other by spinning alone are four times as slow beside other work as threads that spin
    # for a moment and then sleep, and threads that sleep at once half as fast on an idle machine.
    os.environ.setdefault("GOMP_SPINCOUNT", "1000")
    built = locate(root).exists
    world = build(root, report=functools.partial(print, flush=True))
    facts = json.loads(world.facts.read_text())
    print(f"{'found' if built else 'built'} {world.root}")
    print(
        f"policy of {facts['policy_parameters']:,} parameters; reward model right on "
        f"{facts['reward_model_accuracy']:.1%} of held-out pairs; frozen part {facts['frozen'][:12]}"
    )


if __name__ == "__main__":
    main()
