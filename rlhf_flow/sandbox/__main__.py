"""`python -m rlhf_flow.sandbox`: build the sandbox world, or print where it is."""

from __future__ import annotations

import argparse
import functools
import json
from pathlib import Path

from rlhf_flow.sandbox.build import build
from rlhf_flow.sandbox.world import locate


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m rlhf_flow.sandbox", description=__doc__)
    parser.add_argument("--root", type=Path, help="parent folder (default: ${RLHF_FLOW_HOME:-~/.cache/rlhf-flow})")
    show(parser.parse_args().root)


def show(root: Path | None) -> None:
    """Build the world if it is not there, and print where it is. `root`: its parent folder; None: the default."""
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
