"""The live view of a run, as it was after its last round, in windows of several widths.

python scripts/proofs/screen.py RUN [--widths 80 140] [--height 40] [--svg FOLDER]
"""

from __future__ import annotations

import argparse
import io
import json
from pathlib import Path

import yaml
from rich.console import Console

from rlhf_flow.observe.samples import Samples
from rlhf_flow.observe.screen import Screen
from rlhf_flow.observe.settings import ObservedRun
from rlhf_flow.types import RoundRecord


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("run", type=Path)
    parser.add_argument("--widths", type=int, nargs="+", default=[80, 140])
    parser.add_argument("--height", type=int, default=40)
    parser.add_argument("--svg", type=Path)
    options = parser.parse_args()
    for width in options.widths:
        page = Console(record=True, file=io.StringIO(), width=width, height=options.height, highlight=False)
        page.print(view(options.run, page))
        if options.svg is not None:
            page.save_svg(str(options.svg / f"screen-{width}.svg"), title="rlhf-flow run", clear=False)
        print(f"{'─' * width}\n{page.export_text()}")


def view(folder: Path, page: Console) -> object:
    """The view after the last round, with the next one's stages halfway."""
    lines = (folder / "metrics.jsonl").read_text(encoding="utf-8").splitlines()
    records = [RoundRecord(line.pop("round"), "", {}, line, {}, {}) for line in map(json.loads, lines)]
    rounds = yaml.safe_load((folder / "config.yaml").read_text(encoding="utf-8"))["rounds"]
    run = ObservedRun(folder, records, {"rounds": rounds}, samples=Samples(folder))
    screen = Screen(run, page)
    for record in records:
        screen.round(record)
    screen.stage(len(records), "learn", 500, 1000, "steps", "loss 0.6512")
    return screen.view()


if __name__ == "__main__":
    main()
